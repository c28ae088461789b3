//! LZ4 blocks. Without the feature, none is made and none is understood.

/// An LZ4 block grows by this factor at most: the length of a copy takes a byte for each 255.
pub(crate) const MOST_EXPANDED: u64 = 255;

#[cfg(feature = "lz4")]
mod codec {
    use lz4_flex::block;

    /// Bytes that [`compress`] wants to write into.
    pub(crate) fn room_for(len: usize) -> usize {
        block::get_maximum_output_size(len)
    }

    /// Compresses `bytes` to the front of `into`; returns the length of the block.
    pub(crate) fn compress(bytes: &[u8], into: &mut [u8]) -> Option<usize> {
        block::compress_into(bytes, into).ok()
    }

    /// Decompresses a block to the front of `into`; returns how many bytes that were. `None` if it
    /// is no block, or if they do not fit.
    pub(crate) fn decompress(block: &[u8], into: &mut [u8]) -> Option<usize> {
        block::decompress_into(block, into).ok()
    }
}

#[cfg(not(feature = "lz4"))]
mod codec {
    pub(crate) fn room_for(_: usize) -> usize {
        0
    }

    pub(crate) fn compress(_: &[u8], _: &mut [u8]) -> Option<usize> {
        None
    }

    pub(crate) fn decompress(_: &[u8], _: &mut [u8]) -> Option<usize> {
        None
    }
}

pub(crate) use codec::{compress, decompress, room_for};
