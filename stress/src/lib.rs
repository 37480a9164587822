//! todo docs

pub mod bare;
pub mod floor;
pub mod memory;
pub mod message;
pub mod outside;
pub mod product;
pub mod report;
pub mod secure;
pub mod target;
