//! The NativeOS and NativeLanMan strings of an SMB_COM_SESSION_SETUP_ANDX request (MS-CIFS section
//! 2.2.4.53.1, MS-SMB section 2.2.4.6.1).
//!
//! They are shown to people; no decision depends on them.

use std::ops::Range;

/// Number of bytes of the parameter block from which [`Layout::parse`] locates the strings.
pub const LAYOUT_LEN: usize = 19;
/// Maximum number of bytes read as strings.
const MAX_STRINGS_LEN: usize = 512;

/// Offsets of the lengths of the fields before the strings.
mod field {
    use std::ops::Range;

    /// Length of the security blob, the password, or the first of two passwords.
    pub(super) const FIRST: Range<usize> = 15..17;
    /// Length of the second password (WordCount 13).
    pub(super) const SECOND: Range<usize> = 17..19;
}

/// The position of the strings in the block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Layout {
    start: usize,
    /// AccountName and PrimaryDomain precede the native strings.
    has_account: bool,
}

impl Layout {
    /// Parses the first [`LAYOUT_LEN`] bytes of a request's parameter block.
    pub fn parse(block: &[u8]) -> Option<Self> {
        let words = *block.first()?;
        let length = |range: Range<usize>| match block.get(range) {
            Some([low, high]) => Some(usize::from(u16::from_le_bytes([*low, *high]))),
            _ => None,
        };
        let first = length(field::FIRST)?;
        let (opaque, has_account) = match words {
            10 => (first, true),
            12 => (first, false),
            13 => (first + length(field::SECOND)?, true),
            _ => return None,
        };
        let start = 1 + 2 * usize::from(words) + 2 + opaque;
        Some(Self { start, has_account })
    }

    /// Returns the position of the strings, in bytes from the start of the block. `len` is the
    /// number of bytes from there to the end of the message.
    pub fn range(&self, len: usize) -> Range<usize> {
        self.start.min(len)..(self.start + MAX_STRINGS_LEN).min(len)
    }
}

/// The software that a client reports.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Native {
    /// The operating system (NativeOS).
    pub os: String,
    /// The file sharing software (NativeLanMan).
    pub lan_manager: String,
}

impl Native {
    /// Parses the strings. `odd` is true if they start at an odd offset from the SMB header, to
    /// which UTF-16 is aligned.
    pub fn parse(strings: &[u8], layout: Layout, unicode: bool, odd: bool) -> Self {
        let mut rest = match unicode && odd {
            true => strings.get(1..).unwrap_or_default(),
            false => strings,
        };
        let mut next = || {
            let (text, remaining) = if unicode { utf16(rest) } else { oem(rest) };
            rest = remaining;
            text
        };
        if layout.has_account {
            next();
            next();
        }
        Self {
            os: next(),
            lan_manager: next(),
        }
    }
}

fn utf16(bytes: &[u8]) -> (String, &[u8]) {
    let pairs = bytes.chunks_exact(2);
    let units: Vec<u16> = pairs
        .map(|pair| u16::from_le_bytes([pair[0], pair[1]]))
        .take_while(|unit| *unit != 0)
        .collect();
    let remaining = bytes.get(2 * units.len() + 2..).unwrap_or_default();
    (printable(String::from_utf16_lossy(&units)), remaining)
}

fn oem(bytes: &[u8]) -> (String, &[u8]) {
    let end = bytes.iter().position(|byte| *byte == 0);
    let (text, remaining) = bytes.split_at(end.unwrap_or(bytes.len()));
    let remaining = remaining.get(1..).unwrap_or_default();
    (
        printable(String::from_utf8_lossy(text).into_owned()),
        remaining,
    )
}

/// Replaces control characters, which could manipulate a terminal.
fn printable(text: String) -> String {
    text.replace(char::is_control, "?")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn block(words: u8, first: u16, second: u16) -> Vec<u8> {
        let mut block = vec![0; 1 + 2 * usize::from(words) + 2];
        block[0] = words;
        block[15..17].copy_from_slice(&first.to_le_bytes());
        if words == 13 {
            block[17..19].copy_from_slice(&second.to_le_bytes());
        }
        block
    }

    fn wide(text: &str) -> Vec<u8> {
        text.encode_utf16().flat_map(u16::to_le_bytes).collect()
    }

    #[test]
    fn ms_smb_2_2_4_6_1_strings_after_the_security_blob_are_parsed() {
        let layout = Layout::parse(&block(12, 74, 0)).unwrap();
        let strings = wide("Windows 2002 Service Pack 2 2600\0Windows 2002 5.1\0");
        assert_eq!(layout.range(1000), 101..613);
        assert_eq!(layout.range(110), 101..110);
        assert_eq!(layout.range(5), 5..5);
        let padded = [&[0], &strings[..]].concat();
        let native = Native::parse(&padded, layout, true, true);
        assert_eq!(native.os, "Windows 2002 Service Pack 2 2600");
        assert_eq!(native.lan_manager, "Windows 2002 5.1");
    }

    #[test]
    fn ms_cifs_2_2_4_53_1_strings_after_passwords_and_names_are_parsed() {
        let layout = Layout::parse(&block(13, 24, 24)).unwrap();
        assert_eq!(layout.range(1000).start, 29 + 48);
        let native = Native::parse(b"ANNA\0LAB\0Unix\0Samba\0", layout, false, true);
        assert_eq!((&*native.os, &*native.lan_manager), ("Unix", "Samba"));
        let layout = Layout::parse(&block(10, 24, 0)).unwrap();
        assert_eq!(layout.range(1000).start, 23 + 24);
        let native = Native::parse(b"A\0B\0OS\x1B[2J", layout, false, false);
        assert_eq!((&*native.os, &*native.lan_manager), ("OS?[2J", ""));
        assert_eq!(Layout::parse(&block(11, 0, 0)), None);
    }

    proptest! {
        #[test]
        fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..64), len in 0usize..2000,
                          words in prop::sample::select(vec![10u8, 12, 13, 14]), unicode: bool, odd: bool) {
            let mut bytes = bytes;
            if let Some(first) = bytes.first_mut() { *first = words; }
            if let Some(layout) = Layout::parse(&bytes) {
                let range = layout.range(len);
                prop_assert!(range.start <= range.end && range.end <= len);
                let _ = Native::parse(&bytes, layout, unicode, odd);
            }
        }
    }
}
