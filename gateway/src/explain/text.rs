//! An explanation as people and programs read it.

use std::fmt::Write;

use serde_json::{Value, json};

use super::{Candidate, Explanation, Outcome};

/// Endpoints shown to people; programs get all.
const SHOWN: usize = 20;

impl Explanation {
    /// For people: numbered steps, then what comes of them.
    pub fn to_text(&self) -> String {
        let mut text = format!("{}\n\n", self.question);
        for (number, step) in self.steps.iter().enumerate() {
            let _ = writeln!(text, "{:2}. {}: {}", number + 1, step.title, step.detail);
        }
        text.push_str("\n→ ");
        match &self.outcome {
            Outcome::Endpoints { rule, candidates, sticky: _ } => write_candidates(&mut text, rule, candidates),
            Outcome::Refused { reason } => {
                let _ = writeln!(text, "refused: {reason}");
            }
            Outcome::Status { code, reason } => {
                let _ = writeln!(text, "{code}: {reason}");
            }
            Outcome::Dns { answer } => {
                let _ = writeln!(text, "DNS answers {answer}");
            }
        }
        text
    }

    /// For programs.
    pub fn to_json(&self) -> Value {
        let steps: Vec<Value> =
            self.steps.iter().map(|step| json!({ "title": step.title, "detail": step.detail })).collect();
        let outcome = match &self.outcome {
            Outcome::Endpoints { rule, candidates, sticky } => {
                let candidates: Vec<Value> = candidates.iter().map(candidate).collect();
                json!({ "kind": "endpoints", "rule": rule, "sticky": sticky, "candidates": candidates })
            }
            Outcome::Refused { reason } => json!({ "kind": "refused", "reason": reason }),
            Outcome::Status { code, reason } => json!({ "kind": "status", "code": code, "reason": reason }),
            Outcome::Dns { answer } => json!({ "kind": "dns", "answer": answer }),
        };
        json!({ "question": self.question, "steps": steps, "outcome": outcome })
    }
}

fn write_candidates(text: &mut String, rule: &str, candidates: &[Candidate]) {
    let possible: Vec<&Candidate> = candidates.iter().filter(|candidate| candidate.share > 0.0).collect();
    let _ = match possible.len() {
        1 => writeln!(text, "this endpoint: {rule}"),
        n => writeln!(text, "one of {n} endpoints: {rule}"),
    };
    let width = possible.iter().take(SHOWN).map(|candidate| candidate.addr.to_string().len()).max().unwrap_or(0);
    for candidate in possible.iter().take(SHOWN) {
        let line = format!(
            "{:7.1} %  {:width$}  {}",
            candidate.share * 100.0,
            candidate.addr.to_string(),
            candidate.pod.as_deref().unwrap_or_default()
        );
        let _ = writeln!(text, "{}", line.trim_end());
    }
    if let Some(more) = possible.len().checked_sub(SHOWN).filter(|more| *more > 0) {
        let _ = writeln!(text, "    and {more} more");
    }
}

fn candidate(candidate: &Candidate) -> Value {
    json!({
        "address": candidate.addr.to_string(),
        "pod": candidate.pod.as_deref(),
        "share": candidate.share,
        "first": candidate.first,
    })
}
