//! What PyTorch computed with the avatars model: of every part, and from seeds to pictures and words.

use safetensors::SafeTensors;
use serde_json::Value;

/// `reference.safetensors`, and the runs that `reference.json` lists.
pub struct Reference {
    pub runs: Vec<Value>,
    bytes: Vec<u8>,
}

impl Reference {
    /// None where the model is not.
    pub fn read() -> Option<Reference> {
        let (folder, _, about) = super::found()?;
        let runs = about["end_to_end"].as_array().unwrap().clone();
        Some(Reference { runs, bytes: std::fs::read(folder.join("reference.safetensors")).unwrap() })
    }

    /// The shape and the bytes of a tensor, if there is one of that name.
    pub fn tensor(&self, name: &str) -> Option<(Vec<usize>, Vec<u8>)> {
        let stored = SafeTensors::deserialize(&self.bytes).unwrap();
        let tensor = stored.tensor(name).ok()?;
        Some((tensor.shape().to_vec(), tensor.data().to_vec()))
    }

    /// Its values.
    pub fn floats(&self, name: &str) -> Vec<f32> {
        self.words(name).into_iter().map(f32::from_le_bytes).collect()
    }

    /// Its values of four bytes.
    pub fn words(&self, name: &str) -> Vec<[u8; 4]> {
        let (_, bytes) = self.tensor(name).unwrap_or_else(|| panic!("there is no {name}"));
        bytes.as_chunks().0.to_vec()
    }
}

/// The name of a run's tensor.
pub fn of(run: &Value, name: &str) -> String {
    format!("{}/{name}", run["id"].as_str().unwrap())
}
