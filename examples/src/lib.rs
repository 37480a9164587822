//! Placeholder of the crate until its first module lands.
