//! Image bytes written by hand, for judging the code that reads and writes images.
//!
//! Nothing here is shared with the format crate: two independent readings of the format must agree.
//! Numbers and names come from the test that uses them.

/// First word of a common image of layout v1.1.
pub const COMMON_HEAD: u32 = 0x5456_4319;
/// First word of a service image of layout v1.1.
pub const SERVICE_HEAD: u32 = 0x5510_5940;
/// The only word in front of the inventory's entry.
pub const INVENTORY_MAGIC: u32 = 0x5831_3116;

/// A base-128 number, least significant group first.
pub fn varint(mut value: u64) -> Vec<u8> {
    let mut out = Vec::new();
    loop {
        let [low, ..] = value.to_le_bytes();
        value >>= 7;
        if value == 0 {
            out.push(low & 0x7f);
            return out;
        }
        out.push(low | 0x80);
    }
}

/// A protobuf message under construction. Fields appear in the order in which they are added.
#[derive(Clone, Debug, Default)]
pub struct Message(Vec<u8>);

impl Message {
    /// A message without fields.
    pub fn new() -> Self {
        Self::default()
    }

    fn tag(&mut self, field: u32, wire_type: u64) {
        self.0.extend(varint(u64::from(field) << 3 | wire_type));
    }

    /// A field of any unsigned, bool or enum type.
    #[must_use]
    pub fn uint(mut self, field: u32, value: u64) -> Self {
        self.tag(field, 0);
        self.0.extend(varint(value));
        self
    }

    /// A field of type int32 or int64: negative numbers take ten bytes.
    #[must_use]
    pub fn int(self, field: u32, value: i64) -> Self {
        self.uint(field, u64::from_le_bytes(value.to_le_bytes()))
    }

    /// A field of type sint32 or sint64: zigzag.
    #[must_use]
    pub fn sint(self, field: u32, value: i64) -> Self {
        let zigzag = (value << 1) ^ (value >> 63);
        self.int(field, zigzag)
    }

    /// A field of type fixed32 or sfixed32.
    #[must_use]
    pub fn fixed32(mut self, field: u32, value: u32) -> Self {
        self.tag(field, 5);
        self.0.extend(value.to_le_bytes());
        self
    }

    /// A field of type fixed64 or sfixed64.
    #[must_use]
    pub fn fixed64(mut self, field: u32, value: u64) -> Self {
        self.tag(field, 1);
        self.0.extend(value.to_le_bytes());
        self
    }

    /// A field of type bytes.
    #[must_use]
    pub fn bytes(mut self, field: u32, value: &[u8]) -> Self {
        self.tag(field, 2);
        self.0.extend(varint(value.len() as u64));
        self.0.extend(value);
        self
    }

    /// A field of type string.
    #[must_use]
    pub fn text(self, field: u32, value: &str) -> Self {
        self.bytes(field, value.as_bytes())
    }

    /// A field that is itself a message.
    #[must_use]
    pub fn message(self, field: u32, value: &Message) -> Self {
        self.bytes(field, &value.0)
    }

    /// The bytes so far.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

/// An image file under construction.
#[derive(Clone, Debug, Default)]
pub struct Image(Vec<u8>);

impl Image {
    /// Starts with the given words: none for a raw image, the magic alone for layout v1.0 and for the
    /// inventory, head and magic for layout v1.1.
    pub fn starting_with(words: &[u32]) -> Self {
        Self(words.iter().flat_map(|word| word.to_le_bytes()).collect())
    }

    /// Adds an entry: length and message.
    ///
    /// # Panics
    /// When the message is larger than a length word can say.
    #[must_use]
    pub fn entry(mut self, message: &Message) -> Self {
        let length = u32::try_from(message.0.len()).expect("a hand-made message is small");
        self.0.extend(length.to_le_bytes());
        self.0.extend(&message.0);
        self
    }

    /// Adds bytes as they are: the extra payload of an entry, or damage.
    #[must_use]
    pub fn raw(mut self, bytes: &[u8]) -> Self {
        self.0.extend(bytes);
        self
    }

    /// The file's contents.
    pub fn finish(self) -> Vec<u8> {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_base_128() {
        assert_eq!(varint(0), [0]);
        assert_eq!(varint(127), [0x7f]);
        assert_eq!(varint(300), [0xac, 0x02]);
        assert_eq!(varint(u64::MAX).len(), 10);
    }

    #[test]
    fn an_image_is_words_then_framed_entries() {
        let message = Message::new().uint(1, 2).text(2, "ab").sint(3, -1).fixed32(4, 7);
        let bytes = Image::starting_with(&[COMMON_HEAD, 0x1234]).entry(&message).raw(b"xyz").finish();
        assert_eq!(bytes[..12], [0x19, 0x43, 0x56, 0x54, 0x34, 0x12, 0, 0, 13, 0, 0, 0]);
        assert_eq!(bytes[12..], *b"\x08\x02\x12\x02ab\x18\x01\x25\x07\x00\x00\x00xyz");
    }
}
