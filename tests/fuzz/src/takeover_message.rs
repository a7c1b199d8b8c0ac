//! The messages of a takeover: what is decoded is what was written, whole and once.

use tidegate::takeover::message::{HEAD_BYTES, Message};

pub fn run(data: &[u8]) {
    let Ok(message) = Message::decode(data) else { return };
    let head = *data.first_chunk::<HEAD_BYTES>().expect("a message has a head");
    assert_eq!(Message::length(head), Ok(data.len()));
    for part in 0..data.len() {
        assert!(Message::decode(&data[..part]).is_err(), "a part of a message is none");
    }
    let again = message.encode();
    match &message {
        // Said to people: what is no text is replaced.
        Message::Refused(_) if std::str::from_utf8(&data[HEAD_BYTES..]).is_err() => {}
        _ => {
            assert_eq!(again, data, "there is one way to write a message");
            assert_eq!(Message::decode(&again), Ok(message));
        }
    }
}
