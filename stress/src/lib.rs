//! The parts that the stress binaries share. Each binary is one scenario in a few pages; everything else is here:
//!
//! | module | content |
//! |---|---|
//! | [`options`] | the options of every scenario; target, progress, Ctrl-C and report of a run |
//! | [`target`] | the server: a running one, or this binary again in another role |
//! | [`product`], [`bare`] | peeloff's servers, and loops without a framework to compare with |
//! | [`client`] | up to 100,000 clients: a few sockets on UDP and DTLS, epoll on TCP and TLS |
//! | [`message`] | messages whose every byte is checked: loss, duplicates, corruption, cross-delivery |
//! | [`latency`] | percentiles, measured from the intended times |
//! | [`outside`] | a process seen through /proc: CPU, memory, threads, descriptors, wake-ups |
//! | [`flood`], [`honest`] | attackers, and honest clients that are served meanwhile |
//! | [`floor`], [`memory`], [`secure`] | the cost of OpenSSL alone in memory, measured on the server's processor |
//! | [`figures`] | the rows that several scenarios report |
//! | [`report`] | table, JSON, HTML, and comparison with an earlier run |
//!
//! A useful figure is a ratio. Absolute figures vary with the state of the machine, and a floor that is measured
//! in the same run on the same processor varies with them.

pub mod bare;
pub mod client;
pub mod figures;
pub mod flood;
pub mod floor;
pub mod honest;
pub mod latency;
pub mod memory;
pub mod message;
pub mod options;
pub mod outside;
pub mod product;
pub mod report;
pub mod role;
pub mod secure;
pub mod stop;
pub mod target;
