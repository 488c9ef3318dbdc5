//! What the network's output means, as linear forms: with x_t = alpha_t x_0 + sigma_t noise, each kind of output gives
//! x_0 and the noise as fixed combinations of (latents, model). v is Salimans and Ho's alpha_t noise - sigma_t x_0
//! (arXiv:2202.00512, appendix D).

use crate::json::{self, Value};
use crate::{Error, Result};

/// What the network was trained to predict.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Prediction {
    /// The noise (epsilon).
    Noise,
    /// The clean picture x_0 ("sample" in diffusers).
    X0,
    /// v = alpha_t noise - sigma_t x_0.
    V,
    /// The flow, noise - x_0 (rectified flow, arXiv:2403.03206).
    Flow,
}

impl Prediction {
    /// All of them.
    pub const ALL: [Prediction; 4] = [Prediction::Noise, Prediction::X0, Prediction::V, Prediction::Flow];

    /// The stable name, as in JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            Prediction::Noise => "noise",
            Prediction::X0 => "x0",
            Prediction::V => "v",
            Prediction::Flow => "flow",
        }
    }

    /// x_0 = `form[0]` latents + `form[1]` model.
    pub fn x0(self, alpha_t: f64, sigma_t: f64) -> [f64; 2] {
        match self {
            Prediction::Noise => [1.0 / alpha_t, -sigma_t / alpha_t],
            Prediction::X0 => [0.0, 1.0],
            Prediction::V => [alpha_t, -sigma_t],
            Prediction::Flow => [1.0 / (alpha_t + sigma_t), -sigma_t / (alpha_t + sigma_t)],
        }
    }

    /// noise = `form[0]` latents + `form[1]` model.
    pub fn noise(self, alpha_t: f64, sigma_t: f64) -> [f64; 2] {
        match self {
            Prediction::Noise => [0.0, 1.0],
            Prediction::X0 => [1.0 / sigma_t, -alpha_t / sigma_t],
            Prediction::V => [sigma_t, alpha_t],
            Prediction::Flow => [1.0 / (alpha_t + sigma_t), alpha_t / (alpha_t + sigma_t)],
        }
    }
}

impl std::str::FromStr for Prediction {
    type Err = Error;

    fn from_str(name: &str) -> Result<Prediction> {
        let found = Prediction::ALL.into_iter().find(|p| p.as_str() == name);
        found.ok_or_else(|| Error::unknown("prediction", name, "Give one of noise, x0, v, flow"))
    }
}

impl json::Read for Prediction {
    fn read(value: &Value) -> json::Result<Prediction> {
        json::named(value)
    }
}

impl json::Write for Prediction {
    fn write(&self) -> Value {
        self.as_str().into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::json::{Read, Write};

    #[test]
    fn names_are_stable() {
        for (prediction, name) in Prediction::ALL.into_iter().zip(["noise", "x0", "v", "flow"]) {
            assert_eq!(prediction.write(), name);
            assert_eq!(Prediction::read(&name.into()), Ok(prediction));
        }
        let what = Prediction::read(&"epsilon".into()).unwrap_err();
        assert_eq!(what, "there is no prediction \"epsilon\". Give one of noise, x0, v, flow");
    }

    #[test]
    fn forms_recover_picture_and_noise() {
        let (alpha_t, sigma_t, x0, noise) = (0.6, 0.8, 0.3, -1.7);
        let latents = alpha_t * x0 + sigma_t * noise;
        for (prediction, model) in [
            (Prediction::Noise, noise),
            (Prediction::X0, x0),
            (Prediction::V, alpha_t * noise - sigma_t * x0),
            (Prediction::Flow, noise - x0),
        ] {
            let apply = |form: [f64; 2]| form[0] * latents + form[1] * model;
            assert!((apply(prediction.x0(alpha_t, sigma_t)) - x0).abs() < 1e-12, "{prediction:?}");
            assert!((apply(prediction.noise(alpha_t, sigma_t)) - noise).abs() < 1e-12, "{prediction:?}");
        }
    }
}
