//! Tests of the recipes on this kernel.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::{io, iter};

use super::*;

/// The longest time that a datagram may take to arrive.
const DEADLINE: Duration = Duration::from_secs(60);
/// The number of trials that may fail because of the machine.
const MAX_TRIALS: usize = 1000;

/// Makes one trial. Repeats it if the kernel chose a port that another test has on another address, or was too busy to
/// deliver.
fn stolen(recipe: Recipe, address: IpAddr) -> bool {
    let trial = || match steals(recipe, address) {
        Err(error) if matches!(error.kind(), io::ErrorKind::AddrInUse | io::ErrorKind::TimedOut) => None,
        other => Some(other.unwrap()),
    };
    iter::repeat_with(trial).take(MAX_TRIALS).flatten().next().expect("no trial succeeds")
}

#[test]
fn a_child_steals_by_the_naive_recipe_and_by_no_other() {
    for address in [IpAddr::from(Ipv4Addr::LOCALHOST), Ipv6Addr::LOCALHOST.into()] {
        for (recipe, wanted) in [(Recipe::Unguarded, 300), (Recipe::Wildcard, 0), (Recipe::Group, 0)] {
            let stolen = (0..300).filter(|_| stolen(recipe, address)).count();
            assert_eq!(stolen, wanted, "{recipe:?} on {address}");
        }
    }
}

#[test]
fn a_retired_listener_keeps_what_it_has_and_gets_nothing_more() {
    let hosts: [(IpAddr, IpAddr); 2] = [
        (Ipv4Addr::UNSPECIFIED.into(), Ipv4Addr::LOCALHOST.into()),
        (Ipv6Addr::UNSPECIFIED.into(), Ipv6Addr::LOCALHOST.into()),
    ];
    for (any, host) in hosts {
        let port_of = |socket: &UdpSocket| socket.local_addr().unwrap().port();
        let wildcard = UdpSocket::from(listen((any, 0).into(), &Options::default()).unwrap());
        let address = SocketAddr::new(host, port_of(&wildcard));
        let old = anchor(address, &Options::default()).unwrap();
        let client = UdpSocket::bind((host, 0)).unwrap();
        let mut buffer = [0; 8];
        let mut expect = |socket: &UdpSocket, wanted: u8| {
            socket.set_read_timeout(Some(DEADLINE)).unwrap();
            let (len, from) = socket.recv_from(&mut buffer).unwrap();
            assert_eq!((&buffer[..len], from.port()), (&[wanted][..], port_of(&client)));
        };
        client.send_to(&[1], address).unwrap();
        let reading = UdpSocket::from(old.try_clone().unwrap());
        reading.peek(&mut [0; 8]).unwrap();
        retire(&old, address).unwrap();
        client.send_to(&[2], address).unwrap();
        expect(&wildcard, 2);
        // The address is free for another anchor, which receives every datagram from then on.
        let new = UdpSocket::from(anchor(address, &Options::default()).unwrap());
        client.send_to(&[3], address).unwrap();
        expect(&new, 3);
        expect(&reading, 1);
        drop((old, reading));
        client.send_to(&[4], address).unwrap();
        expect(&new, 4);
    }
}
