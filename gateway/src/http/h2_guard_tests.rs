use super::*;

const LIMIT: u32 = 100;
const PRIORITY: u8 = 2;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const WINDOW_UPDATE: u8 = 8;

fn frame(kind: u8, flags: u8, payload: usize) -> Vec<u8> {
    let length = u32::try_from(payload).unwrap().to_be_bytes();
    let mut frame = vec![length[1], length[2], length[3], kind, flags, 0, 0, 0, 1];
    frame.resize(HEAD + payload, 0xab);
    frame
}

/// A guard that has seen the preface.
fn guard() -> H2Guard {
    let mut guard = H2Guard::new(LIMIT, 0);
    assert_eq!(guard.check(PREFACE), PREFACE.len());
    guard
}

/// Whether all of these bytes pass, however they are cut into pieces.
fn passes(prepared: impl Fn() -> H2Guard, bytes: &[u8]) -> bool {
    let passed = |size: usize| {
        let mut guard = prepared();
        let passed: usize =
            bytes.chunks(size).take_while(|piece| guard.check(piece) == piece.len()).map(<[u8]>::len).sum();
        passed == bytes.len() && !guard.is_refusing()
    };
    let whole = passed(bytes.len());
    assert!([1, 2, 7, 8, 9, 10, 100].into_iter().all(|size| passed(size) == whole));
    whole
}

fn sent(kind: u8, payload: usize, count: usize) -> impl Fn() -> H2Guard {
    move || {
        let mut guard = guard();
        let bytes = frame(kind, 0, payload).repeat(count);
        let (one, other) = bytes.split_at(bytes.len() / 3);
        guard.wrote(&[IoSlice::new(one), IoSlice::new(other)], bytes.len());
        guard
    }
}

#[test]
fn what_is_of_no_use_is_limited() {
    for (kind, flags, payload) in [
        (SETTINGS, 0, 6),
        (SETTINGS, 1, 0),
        (PING, 0, 8),
        (PING, 1, 8),
        (PRIORITY, 0, 5),
        (WINDOW_UPDATE, 0, 4),
        (DATA, 0, 0),
        (0xfa, 0, 16_384),
    ] {
        let frames = |count: usize| frame(kind, flags, payload).repeat(count);
        assert!(passes(guard, &frames(100)), "{kind}");
        assert!(!passes(guard, &frames(101)), "{kind}");
        // A PING that is answered earns nothing.
        assert!(!passes(sent(PING, 8, 1000), &frames(101)), "{kind}");
    }
    let resets = |count: usize| [frame(HEADERS, 5, 20), frame(RST_STREAM, 0, 4)].concat().repeat(count);
    assert!(passes(guard, &resets(12)) && !passes(guard, &resets(13)));
}

#[test]
fn what_is_of_use_is_not() {
    for frames in [
        frame(DATA, 0, 1),
        frame(DATA, 1, 0),
        frame(CONTINUATION, 0, 0),
        frame(HEADERS, 4, 50),
        [frame(HEADERS, 4, 50), frame(PRIORITY, 0, 5), frame(WINDOW_UPDATE, 0, 4)].concat(),
    ] {
        assert!(passes(guard, &frames.repeat(10_000)));
    }
}

#[test]
fn answers_earn_what_their_reader_needs() {
    let reading = [frame(WINDOW_UPDATE, 0, 4).repeat(2), frame(PING, 0, 8), frame(SETTINGS, 0, 6)].concat();
    assert!(passes(sent(DATA, 16_384, 1000), &reading.repeat(1000)));
    assert!(passes(sent(HEADERS, 40, 1000), &reading.repeat(1000)));
    assert!(passes(sent(DATA, 5, 1000), &frame(WINDOW_UPDATE, 0, 4).repeat(20_000)));
    assert!(!passes(sent(DATA, 5, 1000), &frame(WINDOW_UPDATE, 0, 4).repeat(20_101)));
}

#[test]
fn it_recovers_with_time_up_to_the_limit() {
    let pings = |count: usize| frame(PING, 0, 8).repeat(count);
    let mut guard = guard();
    guard.check(&pings(100));
    guard.recover(1);
    assert_eq!(guard.allowance, 13);
    guard.recover(1);
    guard.recover(100);
    assert_eq!(guard.allowance, 100);
    guard.check(&frame(HEADERS, 4, 1).repeat(100));
    guard.recover(200);
    assert_eq!(guard.allowance, 500, "what was earned is kept");
}

#[test]
fn the_one_too_many_passes_whole_and_then_there_is_no_end_of_fields() {
    let mut guard = guard();
    guard.check(&frame(PING, 0, 8).repeat(100));
    let ping = frame(PING, 0, 8);
    assert_eq!((guard.check(&ping[..10]), guard.is_refusing(), guard.flood()), (10, false, Some("PING")));
    let rest = [&ping[10..], &ping[..]].concat();
    assert_eq!((guard.check(&rest), guard.is_refusing()), (7, true));
    let mut room = [0; 3 * HEAD + 2];
    let mut buf = ReadBuf::new(&mut room);
    guard.instead(&mut buf);
    assert_eq!(buf.filled(), [BEGINNING, AND_SO_ON, AND_SO_ON].concat());
    buf.clear();
    guard.instead(&mut buf);
    assert_eq!(buf.filled(), [AND_SO_ON; 3].concat());
}

#[test]
fn content_that_is_written_is_noticed_in_any_pieces() {
    let bytes = [frame(PING, 1, 8), frame(DATA, 0, 20), frame(PING, 1, 8)].concat();
    let mut guard = guard();
    let content: Vec<bool> = bytes.chunks(10).map(|piece| guard.wrote(&[IoSlice::new(piece)], piece.len())).collect();
    // 17 bytes of PING, 29 of DATA, 17 of PING.
    assert_eq!(content, [false, false, true, true, true, false, false]);
    assert_eq!(guard.allowance, 120);
    let mut guard = H2Guard::new(LIMIT, 0);
    assert!(!guard.wrote(&[IoSlice::new(&bytes), IoSlice::new(&bytes)], 20), "only what was written counts");
}
