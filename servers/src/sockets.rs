//! Options of the listeners' and the peers' sockets.

use clap::Args;
use peeloff::ServerBuilder;
use socket2::SockRef;

use crate::failure::Failure;
use crate::values::Size;

/// The largest value that setsockopt(2) accepts.
const LARGEST: usize = i32::MAX as usize;

/// Options of listeners' and peers' sockets. Without an option, the framework's or the kernel's default applies.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Sockets")]
pub struct SocketArgs {
    /// Ask the kernel for receive buffers of this size.
    ///
    /// The option applies to listeners and to peers' sockets (SO_RCVBUF, socket(7)). The kernel doubles the
    /// number and limits it to the sysctl net.core.rmem_max. Without the option, UDP listeners request 4M, and
    /// all other sockets have the kernel's default.
    #[arg(long, value_name = "BYTES")]
    pub receive_buffer: Option<Size>,

    /// Ask the kernel for send buffers of this size.
    ///
    /// The option applies to listeners and to peers' sockets (SO_SNDBUF, socket(7)). The kernel doubles the
    /// number and limits it to the sysctl net.core.wmem_max.
    #[arg(long, value_name = "BYTES")]
    pub send_buffer: Option<Size>,

    /// Mark packets with this differentiated services code point.
    ///
    /// Routers can give such packets a treatment of their own, such as a low delay with 46 (RFC 2474, RFC 3246).
    /// On SCTP, --sctp-dscp takes precedence.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u8).range(..64))]
    pub dscp: Option<u8>,
}

impl SocketArgs {
    /// Checks the values.
    ///
    /// # Errors
    ///
    /// Returns an error if a buffer is larger than setsockopt(2) accepts.
    pub(crate) fn check(&self) -> Result<(), Failure> {
        for (option, size) in [("--receive-buffer", self.receive_buffer), ("--send-buffer", self.send_buffer)]
        {
            if let Some(size) = size.filter(|size| !(1..=LARGEST).contains(&size.0)) {
                return Err(Failure::input(format_args!("{option} {size} is not usable: give 1 to 2047M")));
            }
        }
        Ok(())
    }

    /// Sets the options on a builder.
    pub(crate) fn configure(&self, builder: ServerBuilder) -> ServerBuilder {
        let Self { receive_buffer, send_buffer, dscp } = *self;
        if receive_buffer.is_none() && send_buffer.is_none() && dscp.is_none() {
            return builder;
        }
        builder.socket_options(move |socket| {
            let options = SockRef::from(socket);
            if let Some(Size(bytes)) = receive_buffer {
                options.set_recv_buffer_size(bytes)?;
            }
            if let Some(Size(bytes)) = send_buffer {
                options.set_send_buffer_size(bytes)?;
            }
            if let Some(dscp) = dscp {
                // The code point is the upper six bits of the octet.
                let octet = u32::from(dscp) << 2;
                // An IPv6 socket has a separate value for its IPv4 peers.
                if socket.local_address().is_some_and(|address| address.is_ipv6()) {
                    options.set_tclass_v6(octet)?;
                }
                options.set_tos_v4(octet)?;
            }
            Ok(())
        })
    }
}
