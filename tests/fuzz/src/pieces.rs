//! How bytes arrive: in one piece, or cut in many ways. The first byte of an input decides.

/// The input behind its first byte, and that byte. Nothing at all is an empty input in one piece.
pub fn take(data: &[u8]) -> (u8, &[u8]) {
    data.split_first().map_or((0, data), |(how, rest)| (*how, rest))
}

/// Cuts `bytes`: not at all for 0, in pieces of that size below 128, and at random above.
pub fn cut(bytes: &[u8], how: u8) -> Vec<&[u8]> {
    let (mut rest, mut all) = (bytes, Vec::new());
    let mut state = u32::from(how);
    while !rest.is_empty() {
        let size = match how {
            0 => rest.len(),
            1..128 => usize::from(how),
            128.. => {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                1 + (state >> 24) as usize % 24
            }
        };
        let (piece, after) = rest.split_at(size.min(rest.len()));
        all.push(piece);
        rest = after;
    }
    all
}
