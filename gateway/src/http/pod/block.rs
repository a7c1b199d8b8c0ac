//! Where everything from pods is read to.
//!
//! A worker has one block of memory for it, and what was read is handed on in slices of that, uncopied. Mostly an answer is
//! written to its client before the next is read, so that nobody holds a slice any more: then the same bytes are used again, which are
//! still in the processor's cache, and a connection that waits has no buffer at all. Where somebody holds a slice the rest of the
//! block is used, and when there is none a new block.

use std::{
    cell::RefCell,
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::BytesMut;
use tokio::io::AsyncRead;
use tokio_util::io::poll_read_buf;

/// Much in one read, and still a part of the second-level cache.
const BLOCK_BYTES: usize = 128 << 10;

/// With less room than this a read is not worth its system call.
const LEAST_BYTES: usize = 8 << 10;

thread_local! {
    static BLOCK: RefCell<BytesMut> = RefCell::new(BytesMut::new());
}

/// Reads what is there and appends it to `buffer`; 0 at the end.
pub(super) fn poll_fill(
    io: &mut (impl AsyncRead + Unpin),
    buffer: &mut BytesMut,
    cx: &mut Context<'_>,
) -> Poll<io::Result<usize>> {
    BLOCK.with_borrow_mut(|block| {
        if !block.try_reclaim(BLOCK_BYTES) && block.capacity() < LEAST_BYTES {
            *block = BytesMut::with_capacity(BLOCK_BYTES);
        }
        let n = ready!(poll_read_buf(Pin::new(io), cx, block))?;
        if n == 0 {
            return Poll::Ready(Ok(0));
        }
        let piece = block.split();
        if buffer.is_empty() {
            *buffer = piece;
        } else {
            buffer.unsplit(piece);
        }
        Poll::Ready(Ok(n))
    })
}

/// Lets go of the block if nothing is left in `buffer`.
pub(super) fn release(buffer: &mut BytesMut) {
    if buffer.is_empty() {
        *buffer = BytesMut::new();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fill(mut from: &[u8], buffer: &mut BytesMut) -> usize {
        let cx = &mut Context::from_waker(std::task::Waker::noop());
        let Poll::Ready(Ok(n)) = poll_fill(&mut from, buffer, cx) else { panic!("a slice is always ready") };
        n
    }

    #[test]
    fn the_same_bytes_are_used_again_once_nobody_holds_them() {
        let mut buffer = BytesMut::new();
        fill(b"one", &mut buffer);
        let place = buffer.as_ptr();
        let held = buffer.split().freeze();
        release(&mut buffer);
        fill(b"two", &mut buffer);
        assert_eq!((&held[..], &buffer[..]), (&b"one"[..], &b"two"[..]));
        drop(held);
        buffer.clear();
        release(&mut buffer);
        fill(b"three", &mut buffer);
        assert_eq!((buffer.as_ptr(), &buffer[..]), (place, &b"three"[..]));
    }

    #[test]
    fn what_is_held_stays_as_it_is_however_much_follows() {
        let mut held = Vec::new();
        for n in 0..1000_u32 {
            let mut buffer = BytesMut::new();
            let mut text = n.to_string().repeat(100);
            assert_eq!(fill(text.as_bytes(), &mut buffer), text.len());
            text.push_str("more");
            fill(b"more", &mut buffer);
            if n % 3 == 0 {
                held.push((text, buffer.freeze()));
            }
        }
        assert!(held.iter().all(|(text, bytes)| text.as_bytes() == &bytes[..]));
    }

    #[test]
    fn a_read_is_large_where_much_is_there() {
        let (mut buffer, much) = (BytesMut::new(), vec![7; 1 << 20]);
        assert_eq!(fill(&much, &mut buffer), BLOCK_BYTES);
        assert_eq!(fill(&[], &mut buffer), 0);
        assert_eq!(buffer.len(), BLOCK_BYTES);
    }
}
