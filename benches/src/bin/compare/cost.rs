//! What Tidegate's own test says of the size of a connection's future and of the allocations for a request.

use std::{env, process::Command};

use crate::results::Cost;

/// Runs the test; what it does not print is not known.
pub(crate) fn measure() -> Cost {
    let mut cargo = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.args(["test", "-p", "tidegate", "--lib", "http::tests::cost", "--", "--nocapture"]);
    match cargo.current_dir(env!("CARGO_MANIFEST_DIR")).output() {
        Ok(output) => parse(&String::from_utf8_lossy(&output.stdout)),
        Err(error) => {
            eprintln!("cargo test cannot be run: {error}");
            Cost::default()
        }
    }
}

fn parse(text: &str) -> Cost {
    let number = |name: &str| {
        // The test harness may have begun the line.
        let rest = text.lines().find_map(|line| line.split_once(name).map(|(_, rest)| rest))?;
        rest.split_whitespace().next()?.trim_end_matches([',', '.']).parse().ok()
    };
    Cost { future_bytes: number("future bytes:"), allocations_per_request: number("allocations per request:") }
}

#[cfg(test)]
mod tests {
    use super::parse;

    #[test]
    fn both_numbers_are_found_or_neither() {
        let cost = parse(
            "running 1 test\ntest http::tests::cost::it ... future bytes: 1840\nallocations per request: 7.5\nok\n",
        );
        assert_eq!((cost.future_bytes, cost.allocations_per_request), (Some(1840.0), Some(7.5)));
        let cost = parse("running 0 tests\n\ntest result: ok. 0 passed\n");
        assert_eq!((cost.future_bytes, cost.allocations_per_request), (None, None));
    }
}
