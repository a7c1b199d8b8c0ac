//! Every test that needs the whole program or real sockets, in one binary.

mod services;
mod tidy;
