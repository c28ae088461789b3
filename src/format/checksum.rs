//! The checksum of everything on disk: CRC-32/IEEE (`crc32fast`; *not* CRC-32C), started from a
//! seed that says where the bytes belong.

use crc32fast::Hasher;

/// What a structure's checksum starts from: bytes copied elsewhere do not verify there.
///
/// Of two messages of one length that differ only in the seed, the checksums always differ: each
/// step of a CRC maps its state one to one. `position` enters through multiplication by an odd
/// number, which is one to one too, so a frame never verifies at another position of its segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Seed(u32);

/// 2^32 divided by the golden ratio, made odd: spreads small positions over all bits.
const SPREAD: u32 = 0x9e37_79b1;

impl Seed {
    /// The seed of the structures of one file, from its 64-bit identity.
    pub(crate) const fn of(identity: u64) -> Self {
        let [a0, a1, a2, a3, b0, b1, b2, b3] = identity.to_le_bytes();
        let low = u32::from_le_bytes([a0, a1, a2, a3]);
        let high = u32::from_le_bytes([b0, b1, b2, b3]);
        // The last term keeps an identity of zeros from having the seed of zeros.
        Self(low ^ high.rotate_left(16).wrapping_mul(SPREAD) ^ 0x6475_7261)
    }

    /// The seed of the structure that starts at `position` of the file.
    #[inline]
    pub(crate) const fn at(self, position: u32) -> Self {
        Self(self.0 ^ position.wrapping_mul(SPREAD))
    }

    /// The checksum of `bytes`.
    #[inline]
    pub(crate) fn checksum(self, bytes: &[u8]) -> u32 {
        let mut hasher = Hasher::new_with_initial(self.0);
        hasher.update(bytes);
        hasher.finalize()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_bytes_have_another_checksum_at_any_other_position_or_file() {
        let bytes = b"the same bytes";
        let here = Seed::of(7).at(1024).checksum(bytes);
        for position in (0..4096).filter(|&p| p != 1024) {
            assert_ne!(Seed::of(7).at(position).checksum(bytes), here);
        }
        assert_ne!(Seed::of(8).at(1024).checksum(bytes), here);
    }

    #[test]
    fn the_polynomial_is_ieee() {
        let mut hasher = Hasher::new_with_initial(0);
        hasher.update(b"123456789");
        assert_eq!(
            hasher.finalize(),
            0xcbf4_3926,
            "the check value of CRC-32/IEEE"
        );
    }
}
