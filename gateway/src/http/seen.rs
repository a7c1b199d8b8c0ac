//! Which fields a request has that mean something to a gateway: one look at them all, instead of one for each question.

use http::{HeaderMap, HeaderName, header};

pub(crate) const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// What there is among the fields of a request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Seen(u8);

/// One of the fields.
#[derive(Clone, Copy, Debug)]
#[repr(u8)]
pub(crate) enum Field {
    Connection = 1,
    ContentLength = 2,
    Expect = 4,
    RequestId = 8,
    Te = 16,
    TransferEncoding = 32,
    Upgrade = 64,
}

impl Seen {
    pub(crate) fn of(headers: &HeaderMap) -> Self {
        Self(headers.keys().map(|name| field(name).map_or(0, |field| field as u8)).fold(0, |all, one| all | one))
    }

    /// Whether there is such a field.
    pub(crate) fn has(self, field: Field) -> bool {
        self.0 & field as u8 != 0
    }
}

fn field(name: &HeaderName) -> Option<Field> {
    match name {
        name if *name == header::CONNECTION => Some(Field::Connection),
        name if *name == header::CONTENT_LENGTH => Some(Field::ContentLength),
        name if *name == header::EXPECT => Some(Field::Expect),
        name if *name == header::TE => Some(Field::Te),
        name if *name == header::TRANSFER_ENCODING => Some(Field::TransferEncoding),
        name if *name == header::UPGRADE => Some(Field::Upgrade),
        name if *name == REQUEST_ID => Some(Field::RequestId),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    #[test]
    fn what_is_there_is_seen_and_nothing_else() {
        let fields = [
            ("connection", Field::Connection),
            ("content-length", Field::ContentLength),
            ("expect", Field::Expect),
            ("x-request-id", Field::RequestId),
            ("te", Field::Te),
            ("transfer-encoding", Field::TransferEncoding),
            ("upgrade", Field::Upgrade),
        ];
        for (name, _) in fields {
            let headers =
                ["host", name, "accept"].map(|name| (HeaderName::from_static(name), HeaderValue::from_static("")));
            let seen = Seen::of(&HeaderMap::from_iter(headers));
            for (other, field) in fields {
                assert_eq!(seen.has(field), name == other, "{name}, {other}");
            }
        }
        assert_eq!(Seen::of(&HeaderMap::new()), Seen::default());
    }
}
