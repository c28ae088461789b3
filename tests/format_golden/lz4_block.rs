//! A second reader of LZ4 blocks, written from the description of the block format
//! (<https://github.com/lz4/lz4/blob/dev/doc/lz4_Block_format.md>).

/// The bytes that a block stands for. Panics on whatever is none.
pub fn decompress(block: &[u8]) -> Vec<u8> {
    let mut rest = block.iter().copied();
    let mut bytes: Vec<u8> = Vec::new();
    while let Some(token) = rest.next() {
        let literals = length(token >> 4, &mut rest);
        let before = bytes.len();
        bytes.extend(rest.by_ref().take(literals));
        assert_eq!(bytes.len() - before, literals);
        // The last sequence has literals alone.
        let Some(low) = rest.next() else { break };
        let back = usize::from(u16::from_le_bytes([low, rest.next().unwrap()]));
        assert!((1..=bytes.len()).contains(&back));
        let copied = length(token & 0x0f, &mut rest) + 4;
        for _ in 0..copied {
            bytes.push(bytes[bytes.len() - back]);
        }
    }
    bytes
}

/// A length of which a token has the first four bits.
fn length(start: u8, rest: &mut impl Iterator<Item = u8>) -> usize {
    let mut length = usize::from(start);
    if start == 15 {
        loop {
            let more = rest.next().unwrap();
            length += usize::from(more);
            if more < 255 {
                break;
            }
        }
    }
    length
}
