//! Fuzz targets: what strangers send, and an oracle for each that says what must come of it.
//!
//! The engine is libFuzzer, linked in by the `libfuzzer-sys` crate. It runs with the stable toolchain because all that it needs
//! of the compiler is LLVM's own coverage pass, which `-Cpasses=sancov-module` turns on; the sanitizers, which are nightly
//! only, would find little in code without `unsafe`. `cargo-fuzz` and `cargo-bolero` drive the same engine, but would have to be
//! installed first and expect nightly; AFL++ is a compiler pass and a program of its own, too.
//!
//! `cargo run -p tidegate-tests --bin fuzz` builds this with the right flags and runs it; it says how. One binary holds all
//! targets, because linking is what building costs; `TIDEGATE_FUZZ` names the one that runs. To add one: a file here, a line in
//! [`TARGETS`], and a folder of seeds in `corpus/`.
//!
//! A target is a function over bytes. Most take their first byte for how the rest arrives (see [`pieces`]), so a seed reads
//! like what is sent, behind one character.

#![no_main]

mod answer_body;
mod answer_head;
mod cookie;
mod exchange;
mod host_path;
mod hyper_peer;
mod manifests;
mod normalise;
mod pieces;
mod preface;
mod proxy_protocol;
mod request_head;
mod strict;
mod takeover_message;
mod tls_hello;
mod write_head;
mod yaml;

use std::sync::OnceLock;

/// What can be run, by name.
const TARGETS: [(&str, fn(&[u8])); 13] = [
    ("answer_body", answer_body::run),
    ("answer_head", answer_head::run),
    ("cookie", cookie::run),
    ("exchange", exchange::run),
    ("host_path", host_path::run),
    ("normalise", normalise::run),
    ("preface", preface::run),
    ("proxy_protocol", proxy_protocol::run),
    ("request_head", request_head::run),
    ("takeover_message", takeover_message::run),
    ("tls_hello", tls_hello::run),
    ("write_head", write_head::run),
    ("yaml", yaml::run),
];

fn chosen() -> fn(&[u8]) {
    static CHOSEN: OnceLock<fn(&[u8])> = OnceLock::new();
    *CHOSEN.get_or_init(|| {
        let name = std::env::var("TIDEGATE_FUZZ").expect("TIDEGATE_FUZZ names a target");
        TARGETS.iter().find(|(target, _)| *target == name).expect("there is a target of this name").1
    })
}

libfuzzer_sys::fuzz_target!(init: { chosen(); }, |data: &[u8]| chosen()(data));
