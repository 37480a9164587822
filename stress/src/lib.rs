//! What the stress binaries share. Each binary is one scenario and a few pages; what it stands on is here:
//!
//! | module | what |
//! |---|---|
//! | [`options`] | what every scenario is told; target, progress, Ctrl-C and report of a run |
//! | [`target`] | the server: a running one, or this binary again in another role |
//! | [`product`], [`bare`] | peeloff's servers, and loops without a framework to compare with |
//! | [`client`] | up to 100,000 clients: few sockets on UDP and DTLS, epoll on TCP and TLS |
//! | [`message`] | messages of which every byte is checked: loss, duplicates, corruption, cross-delivery |
//! | [`latency`] | percentiles from intended times |
//! | [`outside`] | a process by /proc: CPU, memory, threads, descriptors, wake-ups |
//! | [`flood`], [`honest`] | who means no good, and who is to be served all the while |
//! | [`floor`], [`memory`], [`secure`] | what OpenSSL takes in memory alone, measured where the server runs |
//! | [`figures`] | the rows that several scenarios have |
//! | [`report`] | table, JSON, HTML, and comparison with an older run |
//!
//! A figure of the product is a ratio: absolute ones wander with the machine, and its floor, measured in the same run
//! on the same processor, wanders with them.

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
