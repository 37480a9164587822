use super::*;

/// A notification as the kernel lays it out: its header, then these.
fn notification(kind: NotificationKind, flags: u16, fields: &[&[u8]]) -> Vec<u8> {
    let fields = fields.concat();
    let len = (8 + fields.len()) as u32;
    let header = [kind.number().to_ne_bytes(), flags.to_ne_bytes()].concat();
    [header, len.to_ne_bytes().to_vec(), fields].concat()
}

fn halves(values: &[u16]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_ne_bytes()).collect()
}

fn words(values: &[u32]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_ne_bytes()).collect()
}

const ASSOCIATION: AssocId = AssocId::from_raw(77);
const ID: [u8; 4] = 77_i32.to_ne_bytes();

/// One of each kind, with the bytes of a variable part at its end; and what it is.
fn samples() -> Vec<(NotificationKind, Vec<u8>, Notification)> {
    use NotificationKind as Kind;
    let address: SocketAddr = "10.0.0.7:3868".parse().unwrap();
    let storage = sockaddr::to_storage(address).0;
    let chunk_flags = 1 | 2 | 4;
    let info = SendInfo { stream: 5, ppid: 46, unordered: true, context: 9, ..SendInfo::default() };
    let sndinfo = [&halves(&[5, chunk_flags])[..], &46_u32.to_be_bytes(), &words(&[9, 77])].concat();
    let sndrcvinfo =
        [&halves(&[5, 1, chunk_flags, 0])[..], &46_u32.to_be_bytes(), &words(&[9, 100, 1, 2, 77])].concat();
    let failed = |deprecated| Notification::SendFailed {
        association: ASSOCIATION,
        deprecated,
        transmitted: true,
        error: 3,
        info,
        first: true,
        last: true,
        payload: b"lost".to_vec(),
    };
    let abort = [0, 12, 0, 8, b'b', b'u', b's', b'y'];
    let change =
        |state| [&halves(&[state])[..], &12_u16.to_be_bytes(), &halves(&[8, 9]), &ID, &abort].concat();
    let sample =
        |kind, flags, fields: &[u8], expected| (kind, notification(kind, flags, &[fields]), expected);
    vec![
        sample(
            Kind::AssociationChanged,
            0,
            &change(1),
            Notification::AssociationChanged {
                association: ASSOCIATION,
                state: AssociationState::Lost,
                error: Some(ErrorCause::USER_INITIATED_ABORT),
                outbound_streams: 8,
                inbound_streams: 9,
                info: abort.to_vec(),
            },
        ),
        sample(
            Kind::PathChanged,
            0,
            &[&storage[..], &words(&[5, 2]), &ID].concat(),
            Notification::PathChanged {
                association: ASSOCIATION,
                address,
                state: PathState::Confirmed,
                error: 2,
            },
        ),
        sample(
            Kind::SendFailedDeprecated,
            1,
            &[&words(&[3])[..], &sndrcvinfo, &ID, b"lost"].concat(),
            failed(true),
        ),
        sample(
            Kind::RemoteError,
            0,
            &[&3_u16.to_be_bytes()[..], &[0, 0], &ID, b"data"].concat(),
            Notification::RemoteError {
                association: ASSOCIATION,
                error: ErrorCause::new(3),
                data: b"data".to_vec(),
            },
        ),
        sample(Kind::PeerShutDown, 0, &ID, Notification::PeerShutDown { association: ASSOCIATION }),
        sample(
            Kind::PartialDelivery,
            0,
            &[&words(&[0])[..], &ID, &words(&[5, 6])].concat(),
            Notification::PartialDelivery { association: ASSOCIATION, aborted: true, stream: 5, sequence: 6 },
        ),
        sample(
            Kind::AdaptationIndication,
            0,
            &[&words(&[0xfeed])[..], &ID].concat(),
            Notification::AdaptationIndication { association: ASSOCIATION, indication: 0xfeed },
        ),
        sample(
            Kind::Authentication,
            0,
            &[&halves(&[4, 0])[..], &words(&[1]), &ID].concat(),
            Notification::Authentication {
                association: ASSOCIATION,
                event: KeyEvent::Free,
                key: 4,
                alternate: 0,
            },
        ),
        sample(Kind::SenderDry, 0, &ID, Notification::SenderDry { association: ASSOCIATION }),
        sample(
            Kind::StreamsReset,
            2 | 4,
            &[&ID[..], &halves(&[3, 5])].concat(),
            Notification::StreamsReset {
                association: ASSOCIATION,
                inbound: false,
                outbound: true,
                outcome: Outcome::Denied,
                streams: vec![3, 5],
            },
        ),
        sample(
            Kind::AssociationReset,
            8,
            &[&ID[..], &words(&[100, 200])].concat(),
            Notification::AssociationReset {
                association: ASSOCIATION,
                outcome: Outcome::Failed,
                local_tsn: 100,
                remote_tsn: 200,
            },
        ),
        sample(
            Kind::StreamsAdded,
            0,
            &[&ID[..], &halves(&[12, 13])].concat(),
            Notification::StreamsAdded {
                association: ASSOCIATION,
                outcome: Outcome::Done,
                inbound_streams: 12,
                outbound_streams: 13,
            },
        ),
        sample(Kind::SendFailed, 1, &[&words(&[3])[..], &sndinfo, &ID, b"lost"].concat(), failed(false)),
    ]
}

#[test]
fn every_kind_is_read_field_by_field() {
    let samples = samples();
    let kinds: Vec<_> = samples.iter().map(|(kind, ..)| *kind).collect();
    assert_eq!(kinds, NotificationKind::ALL);
    for (kind, bytes, expected) in samples {
        assert_eq!(Notification::parse(&bytes).as_ref(), Ok(&expected), "{kind:?}");
        assert_eq!(expected.association(), Some(ASSOCIATION));
        let followed = [&bytes[..], b"something else"].concat();
        assert_eq!(Notification::parse(&followed), Ok(expected), "{kind:?} and what follows");
    }
}

#[test]
fn every_truncation_is_an_error() {
    for (kind, bytes, _) in samples() {
        for len in 0..bytes.len() {
            assert_eq!(
                Notification::parse(&bytes[..len]),
                Err(MalformedNotification),
                "{kind:?} cut at {len}"
            );
        }
    }
}

#[test]
fn a_length_that_cuts_the_fixed_part_is_an_error() {
    for (kind, bytes, _) in samples() {
        // The sizes of the structures in <linux/sctp.h>.
        let fixed = match kind {
            NotificationKind::AssociationChanged => 20,
            NotificationKind::PathChanged => 148,
            NotificationKind::SendFailedDeprecated => 48,
            NotificationKind::RemoteError => 16,
            NotificationKind::PartialDelivery => 24,
            NotificationKind::AdaptationIndication => 16,
            NotificationKind::Authentication | NotificationKind::AssociationReset => 20,
            NotificationKind::StreamsAdded => 16,
            NotificationKind::SendFailed => 32,
            _ => 12,
        };
        for len in 0..=bytes.len() as u32 + 1 {
            let mut lie = bytes.clone();
            lie[4..8].copy_from_slice(&len.to_ne_bytes());
            let whole = (fixed..=bytes.len() as u32).contains(&len);
            assert_eq!(Notification::parse(&lie).is_ok(), whole, "{kind:?} of {len}");
        }
    }
}

#[test]
fn the_reason_of_an_abort_is_text() {
    let (_, bytes, _) = samples().swap_remove(0);
    assert_eq!(Notification::parse(&bytes).unwrap().abort_reason().as_deref(), Some("busy"));
    assert_eq!(Notification::SenderDry { association: ASSOCIATION }.abort_reason(), None);
}

#[test]
fn an_unknown_kind_keeps_its_bytes() {
    for kind in [0_u16, 0x8000, 0x800e, 0xffff] {
        let bytes = [&halves(&[kind, 7])[..], &words(&[10]), b"xy"].concat();
        let expected = Notification::Unknown { kind, flags: 7, data: b"xy".to_vec() };
        assert_eq!(Notification::parse(&bytes), Ok(expected));
    }
}

#[test]
fn every_state_has_a_name() {
    for (number, state) in [
        (0, AssociationState::Up),
        (2, AssociationState::Restarted),
        (3, AssociationState::ShutDown),
        (4, AssociationState::CannotStart),
        (5, AssociationState::Other(5)),
    ] {
        let bytes =
            notification(NotificationKind::AssociationChanged, 0, &[&halves(&[number, 0, 1, 1]), &ID]);
        let expected = Notification::AssociationChanged {
            association: ASSOCIATION,
            state,
            error: None,
            outbound_streams: 1,
            inbound_streams: 1,
            info: Vec::new(),
        };
        assert_eq!(Notification::parse(&bytes), Ok(expected));
    }
}
