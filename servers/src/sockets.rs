//! Options of the sockets themselves.

use clap::Args;
use peeloff::ServerBuilder;
use socket2::SockRef;

use crate::failure::Failure;
use crate::values::Size;

/// The most that setsockopt(2) takes.
const LARGEST: usize = i32::MAX as usize;

/// Options of listeners' and peers' sockets; those that are left out stay as the framework and the kernel have them.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Sockets")]
pub struct SocketArgs {
    /// Ask the kernel for receive buffers of this size.
    ///
    /// It holds for listeners and for peers' sockets (SO_RCVBUF, socket(7)). The kernel doubles the number, and gives no more than the sysctl
    /// net.core.rmem_max. Without the option, UDP listeners ask for 4M, and the kernel decides about all others.
    #[arg(long, value_name = "BYTES")]
    pub receive_buffer: Option<Size>,

    /// Ask the kernel for send buffers of this size.
    ///
    /// It holds for listeners and for peers' sockets (SO_SNDBUF, socket(7)). The kernel doubles the number, and gives no more than the sysctl
    /// net.core.wmem_max.
    #[arg(long, value_name = "BYTES")]
    pub send_buffer: Option<Size>,

    /// Mark packets with this differentiated services code point.
    ///
    /// Routers can treat such packets in a way of their own, such as 46 with little delay (RFC 2474, RFC 3246). SCTP has
    /// --sctp-dscp as well, which counts there.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u8).range(..64))]
    pub dscp: Option<u8>,
}

impl SocketArgs {
    /// Checks the values.
    ///
    /// # Errors
    ///
    /// A buffer is larger than a socket can be asked for.
    pub(crate) fn check(&self) -> Result<(), Failure> {
        for (option, size) in [("--receive-buffer", self.receive_buffer), ("--send-buffer", self.send_buffer)]
        {
            if let Some(size) = size.filter(|size| !(1..=LARGEST).contains(&size.0)) {
                return Err(Failure::input(format_args!("{option} {size} is not usable: give 1 to 2047M")));
            }
        }
        Ok(())
    }

    /// Passes the options on.
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
                // The upper six bits of the octet.
                let octet = u32::from(dscp) << 2;
                // A socket of IPv6 has it for IPv4 peers too, as a number of its own.
                if socket.local_address().is_some_and(|address| address.is_ipv6()) {
                    options.set_tclass_v6(octet)?;
                }
                options.set_tos_v4(octet)?;
            }
            Ok(())
        })
    }
}
