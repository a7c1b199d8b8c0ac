//! One packet in, one packet out: what the header of a question asks for, and what fits into the answer.

use std::net::SocketAddr;
use std::sync::Arc;

use hickory_proto::op::{Edns, Message, Metadata, ResponseCode};
use hickory_proto::rr::{DNSClass, Name, Record, RecordType};
use hickory_proto::serialize::binary::BinEncoder;
use hickory_server::net::xfer::Protocol;
use hickory_server::server::{Request, ResponseInfo};
use hickory_server::zone_handler::MessageResponseBuilder;
use tokio::sync::watch;

use super::forward::{Forwarder, Question};
use super::zone::{Answer, Verdict, Zone};

/// The largest UDP answer sent, whatever the client offers: it fits in one packet everywhere (DNS flag day 2020).
const MAX_UDP_ANSWER: u16 = 1232;

/// The size of a DNS header (RFC 1035, section 4.1.1).
const HEADER_LEN: usize = 12;

/// What answers the questions: the zone of the moment, and whom to ask about the rest.
#[derive(Debug)]
pub(super) struct Responder {
    zone: watch::Receiver<Option<Arc<Zone>>>,
    forwarder: Option<Forwarder>,
}

/// What to do with a packet.
pub(super) enum Step {
    /// Nothing: it is no question, and an answer to it could start a loop.
    Ignore,
    /// Send this.
    Reply(Vec<u8>),
    /// Another server must be asked first: see [`Responder::finish`].
    Ask(Box<Pending>),
}

/// A question that waits for another server.
pub(super) struct Pending {
    request: Request,
    answer: Answer,
    question: Question,
}

/// An answer before it is encoded.
#[derive(Default)]
struct Response {
    code: ResponseCode,
    authoritative: bool,
    authentic_data: bool,
    answers: Vec<Record>,
    authorities: Vec<Record>,
    additionals: Vec<Record>,
}

impl Responder {
    pub(super) fn new(zone: watch::Receiver<Option<Arc<Zone>>>, forwarder: Option<Forwarder>) -> Self {
        Self { zone, forwarder }
    }

    /// Answers at once what needs no other server.
    pub(super) fn step(&self, packet: &[u8], source: SocketAddr, protocol: Protocol) -> Step {
        let Some(header) = packet.first_chunk::<HEADER_LEN>() else { return Step::Ignore };
        if header[2] & 0x80 != 0 {
            return Step::Ignore;
        }
        if header[2] & 0x78 != 0 {
            return Step::Reply(header_only(header, ResponseCode::NotImp));
        }
        // Checked before parsing, because the parser reserves room for as many questions as the header claims.
        if header[4..6] != [0, 1] {
            return Step::Reply(header_only(header, ResponseCode::FormErr));
        }
        let Ok(request) = Request::from_bytes(packet.to_vec(), source, protocol) else {
            return Step::Reply(header_only(header, ResponseCode::FormErr));
        };
        let Some(query) = request.queries.queries().first().map(|query| query.original().clone()) else {
            return Step::Reply(header_only(header, ResponseCode::FormErr));
        };
        if request.version() > 0 {
            return self.reply(&request, &ResponseCode::BADVERS.into());
        }
        if query.query_class() != DNSClass::IN {
            return self.reply(&request, &ResponseCode::Refused.into());
        }
        let Some(zone) = self.zone.borrow().clone() else {
            return self.reply(&request, &ResponseCode::ServFail.into());
        };
        let (name, record_type) = (query.name(), query.query_type());
        let mut answer = zone.answer(name, record_type);
        let elsewhere = match answer.verdict {
            Verdict::Outside => Some(name.clone()),
            _ => answer.target.take(),
        };
        match elsewhere {
            Some(name) if self.forwarder.is_some() => {
                let question = question(&request, name, record_type, answer.verdict);
                Step::Ask(Box::new(Pending { request, answer, question }))
            }
            _ => self.reply(&request, &local_response(&zone, name, answer)),
        }
    }

    /// Completes the answer with what the other servers say.
    pub(super) async fn finish(&self, pending: Box<Pending>) -> Vec<u8> {
        let Pending { request, answer, question } = *pending;
        let found = match &self.forwarder {
            Some(forwarder) => forwarder.resolve(&question).await,
            None => None,
        };
        let response = found.map_or_else(|| ResponseCode::ServFail.into(), |found| forwarded_response(answer, found));
        encode(&request, &response, self.forwarder.is_some())
    }

    fn reply(&self, request: &Request, response: &Response) -> Step {
        Step::Reply(encode(request, response, self.forwarder.is_some()))
    }
}

impl From<ResponseCode> for Response {
    fn from(code: ResponseCode) -> Self {
        Self { code, ..Self::default() }
    }
}

fn question(request: &Request, name: Name, record_type: RecordType, verdict: Verdict) -> Question {
    Question {
        name,
        record_type,
        // The end of an alias is ours to find, whether or not the client asked for recursion.
        recursion_desired: request.metadata.recursion_desired || verdict != Verdict::Outside,
        checking_disabled: request.metadata.checking_disabled,
        dnssec_ok: request.edns.as_ref().is_some_and(|edns| edns.flags().dnssec_ok),
    }
}

fn local_response(zone: &Zone, name: &Name, mut answer: Answer) -> Response {
    let (code, negative) = match answer.verdict {
        Verdict::Found => (ResponseCode::NoError, false),
        Verdict::NoData => (ResponseCode::NoError, true),
        Verdict::NxDomain => (ResponseCode::NXDomain, true),
        Verdict::Refused | Verdict::Outside => return ResponseCode::Refused.into(),
    };
    // Clients take the first address: without this, one pod of a headless Service would get all connections. Only
    // addresses and SRV records move; aliases must come in their order.
    let aliases = answer.answers.iter().take_while(|record| record.record_type() == RecordType::CNAME).count();
    fastrand::shuffle(&mut answer.answers[aliases..]);
    Response {
        code,
        authoritative: true,
        authentic_data: false,
        answers: answer.answers,
        authorities: if negative { vec![zone.soa(name)] } else { Vec::new() },
        additionals: answer.additionals,
    }
}

fn forwarded_response(answer: Answer, found: Message) -> Response {
    let mut answers = answer.answers;
    // The alias is ours, whatever comes after it is not (RFC 1035, section 4.1.1: AA is about the first owner name).
    let authoritative = !answers.is_empty();
    answers.extend(found.answers);
    Response {
        code: found.metadata.response_code,
        authoritative,
        authentic_data: found.metadata.authentic_data && !authoritative,
        answers,
        authorities: found.authorities,
        additionals: found.additionals,
    }
}

/// The answer to a question that cannot be read: its header, turned round, with nothing behind it.
fn header_only(header: &[u8; HEADER_LEN], code: ResponseCode) -> Vec<u8> {
    // Kept: identifier, opcode and "recursion desired".
    let mut reply = vec![header[0], header[1], 0x80 | (header[2] & 0x79), code.low()];
    reply.resize(HEADER_LEN, 0);
    reply
}

/// Encodes as much as fits. What must fit are the answers; if they do not, the client is told to ask over TCP.
fn encode(request: &Request, response: &Response, recursion_available: bool) -> Vec<u8> {
    let mut metadata = Metadata::response_from_request(&request.metadata);
    metadata.response_code = response.code;
    metadata.authoritative = response.authoritative;
    metadata.authentic_data = response.authentic_data;
    metadata.recursion_available = recursion_available;

    let all = &response.answers[..];
    let Response { authorities, additionals, .. } = response;
    let Some((full, info)) = emit(request, metadata, all, authorities, additionals) else {
        return server_failure(request);
    };
    if !info.truncation {
        return full;
    }
    // Missing glue is no truncation (RFC 2181, section 9).
    let written = usize::from(info.counts().answers);
    let without_glue = emit(request, metadata, all, authorities, &[]);
    if let Some((packet, _)) = without_glue.filter(|(_, info)| !info.truncation) {
        return packet;
    }
    // The last record makes room for the OPT record, which must not be lost. The rest is for clients that ignore TC.
    metadata.truncation = true;
    let some = &all[..written.saturating_sub(1)];
    emit(request, metadata, some, &[], &[]).map_or_else(|| server_failure(request), |(packet, _)| packet)
}

fn emit(
    request: &Request,
    metadata: Metadata,
    answers: &[Record],
    authorities: &[Record],
    additionals: &[Record],
) -> Option<(Vec<u8>, ResponseInfo)> {
    // An OPT record answers an OPT record (RFC 6891, section 6.1.1), and its DO bit is copied (RFC 3225, section 3).
    let edns = request.edns.as_ref().map(|asked| {
        let mut edns = Edns::new();
        edns.set_max_payload(MAX_UDP_ANSWER).set_dnssec_ok(asked.flags().dnssec_ok);
        edns
    });
    let mut packet = Vec::with_capacity(512);
    let mut encoder = BinEncoder::new(&mut packet);
    encoder.set_max_size(match request.protocol() {
        Protocol::Udp => request.max_payload().min(MAX_UDP_ANSWER),
        _ => u16::MAX,
    });
    let builder = MessageResponseBuilder::new(&request.queries, edns.as_ref());
    let response = builder.build(metadata, answers, authorities, &[], additionals);
    match response.destructive_emit(&mut encoder) {
        Ok(info) => Some((packet, info)),
        Err(error) => {
            tracing::warn!(%error, "an answer could not be encoded: answering SERVFAIL");
            None
        }
    }
}

fn server_failure(request: &Request) -> Vec<u8> {
    let header = request.as_slice().first_chunk::<HEADER_LEN>();
    header.map(|header| header_only(header, ResponseCode::ServFail)).unwrap_or_default()
}
