//! Whole calls over loopback UDP: a caller and an answering peer in one process.

mod audio;
mod call;
mod connect;
mod data;
mod loss;
mod negotiate;
