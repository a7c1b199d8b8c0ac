//! Something that happened, as a question.

use std::net::{IpAddr, SocketAddr};

use tidegate_l4::table::Frontend;

use super::Question;
use crate::tail::{Event, Request, What};

impl Question {
    /// Why `event` went where it went. The session cookie that named its pod is part of the question, and never shown.
    ///
    /// # Errors
    /// If there is nothing to explain about it. The error says so.
    pub fn of_event(event: &Event) -> Result<Self, String> {
        match &event.what {
            What::Connection(connection) => of_connection(connection.frontend, connection.client.ip()),
            What::Refused(refused) => of_connection(refused.frontend, refused.client.ip()),
            What::Request(request) => of_request(request),
            What::ConnectionEnd(end) => {
                Err(format!("that a connection ended needs no reason; ask about event {}.", end.of))
            }
        }
    }
}

fn of_connection(frontend: Frontend, client: IpAddr) -> Result<Question, String> {
    let protocol = frontend.protocol.to_string().to_lowercase();
    Question::parse(&format!("{protocol}://{}", SocketAddr::new(frontend.ip, frontend.port)), &[], Some(client))
}

fn of_request(request: &Request) -> Result<Question, String> {
    let Request { method, host, path, .. } = request;
    let scheme = if request.is_tls { "https" } else { "http" };
    let cookie: Vec<String> = request.session.iter().map(|session| format!("Cookie: {session}")).collect();
    let from = request.on_behalf_of.unwrap_or_else(|| request.client.ip());
    Ok(Question::parse(&format!("{method} {scheme}://{host}{path}"), &cookie, Some(from))?.concealed())
}

#[cfg(test)]
#[path = "event_tests.rs"]
mod tests;
