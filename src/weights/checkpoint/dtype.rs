//! How a checkpoint stores values, and what they are in f32.

use half::{bf16, f16};
use std::io::Read;

/// Bytes that are read at once.
const PIECE: usize = 1 << 20;

/// How a checkpoint stores values.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Dtype {
    F64,
    F32,
    F16,
    Bf16,
    I64,
    I32,
    I16,
    I8,
    U8,
    /// By its name; not read.
    Other(String),
}

impl Dtype {
    /// By a storage's class or a dtype's name.
    #[cfg(feature = "cli")]
    pub fn of_torch(name: &str) -> Dtype {
        match name.trim_start_matches("torch.") {
            "DoubleStorage" | "float64" => Dtype::F64,
            "FloatStorage" | "float32" => Dtype::F32,
            "HalfStorage" | "float16" => Dtype::F16,
            "BFloat16Storage" | "bfloat16" => Dtype::Bf16,
            "LongStorage" | "int64" => Dtype::I64,
            "IntStorage" | "int32" => Dtype::I32,
            "ShortStorage" | "int16" => Dtype::I16,
            "CharStorage" | "int8" => Dtype::I8,
            "ByteStorage" | "BoolStorage" | "uint8" | "bool" => Dtype::U8,
            other => Dtype::Other(other.trim_end_matches("Storage").into()),
        }
    }

    pub fn of_safetensors(dtype: safetensors::Dtype) -> Dtype {
        match dtype {
            safetensors::Dtype::F64 => Dtype::F64,
            safetensors::Dtype::F32 => Dtype::F32,
            safetensors::Dtype::F16 => Dtype::F16,
            safetensors::Dtype::BF16 => Dtype::Bf16,
            safetensors::Dtype::I64 => Dtype::I64,
            safetensors::Dtype::I32 => Dtype::I32,
            safetensors::Dtype::I16 => Dtype::I16,
            safetensors::Dtype::I8 => Dtype::I8,
            safetensors::Dtype::U8 | safetensors::Dtype::BOOL => Dtype::U8,
            other => Dtype::Other(format!("{other:?}")),
        }
    }

    /// Bytes a value; at least 1.
    pub fn bytes(&self) -> usize {
        match self {
            Dtype::F64 | Dtype::I64 => 8,
            Dtype::F32 | Dtype::I32 => 4,
            Dtype::F16 | Dtype::Bf16 | Dtype::I16 => 2,
            Dtype::I8 | Dtype::U8 | Dtype::Other(_) => 1,
        }
    }

    pub fn is_float(&self) -> bool {
        matches!(self, Dtype::F64 | Dtype::F32 | Dtype::F16 | Dtype::Bf16)
    }

    /// Appends the values that some bytes stand for; none for what is not read.
    fn decode(&self, bytes: &[u8], into: &mut Vec<f32>) {
        match self {
            Dtype::F64 => into.extend(bytes.as_chunks().0.iter().map(|b| f64::from_le_bytes(*b) as f32)),
            Dtype::F32 => into.extend(bytes.as_chunks().0.iter().map(|b| f32::from_le_bytes(*b))),
            Dtype::F16 => into.extend(bytes.as_chunks().0.iter().map(|b| f16::from_le_bytes(*b).to_f32())),
            Dtype::Bf16 => into.extend(bytes.as_chunks().0.iter().map(|b| bf16::from_le_bytes(*b).to_f32())),
            Dtype::I64 => into.extend(bytes.as_chunks().0.iter().map(|b| i64::from_le_bytes(*b) as f32)),
            Dtype::I32 => into.extend(bytes.as_chunks().0.iter().map(|b| i32::from_le_bytes(*b) as f32)),
            Dtype::I16 => into.extend(bytes.as_chunks().0.iter().map(|b| f32::from(i16::from_le_bytes(*b)))),
            Dtype::I8 => into.extend(bytes.iter().map(|&b| f32::from(b as i8))),
            Dtype::U8 => into.extend(bytes.iter().map(|&b| f32::from(b))),
            Dtype::Other(_) => {}
        }
    }

    /// Reads so many values, with no more than a piece of them in memory beside the result.
    pub fn read(&self, from: &mut dyn Read, count: usize) -> std::io::Result<Vec<f32>> {
        let mut values = Vec::with_capacity(count);
        let mut piece = vec![0; PIECE.min(count * self.bytes())];
        while values.len() < count {
            let bytes = &mut piece[..self.bytes() * (count - values.len()).min(PIECE / self.bytes())];
            from.read_exact(bytes)?;
            self.decode(bytes, &mut values);
        }
        Ok(values)
    }
}
