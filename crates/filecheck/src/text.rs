//! How cookies look in JSON: hexadecimal text.

use std::fmt;

use serde::de::{Deserialize, Deserializer, Error};
use serde::{Serialize, Serializer};

use crate::build_id::BuildId;
use crate::cookie::Verity;
use crate::crc::CrcMode;
use crate::hash::Blake3;

impl Serialize for BuildId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl Serialize for Blake3 {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Blake3 {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Self::from_hex(&text).ok_or_else(|| D::Error::custom("a BLAKE3 hash has 64 hexadecimal digits"))
    }
}

impl Serialize for CrcMode {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl Verity {
    fn digest_hex(&self) -> String {
        self.digest.iter().map(|byte| format!("{byte:02x}")).collect()
    }
}

impl fmt::Display for Verity {
    /// As the tool `fsverity` shows it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.algorithm {
            1 => f.write_str("sha256:")?,
            2 => f.write_str("sha512:")?,
            other => write!(f, "algorithm {other}:")?,
        }
        f.write_str(&self.digest_hex())
    }
}

impl Serialize for Verity {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        VerityText { algorithm: self.algorithm, digest: self.digest_hex() }.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Verity {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = VerityText::deserialize(deserializer)?;
        let digest =
            from_hex(&text.digest).ok_or_else(|| D::Error::custom("a digest is hexadecimal digits"))?;
        Ok(Self { algorithm: text.algorithm, digest })
    }
}

#[derive(serde::Serialize, serde::Deserialize)]
struct VerityText {
    algorithm: u16,
    digest: String,
}

fn from_hex(text: &str) -> Option<Vec<u8>> {
    let digits: Vec<u32> = text.chars().map(|digit| digit.to_digit(16)).collect::<Option<_>>()?;
    let byte = |pair: &[u32]| match pair {
        [high, low] => u8::try_from(high * 16 + low).ok(),
        _ => None,
    };
    digits.chunks(2).map(byte).collect()
}
