//! Programs that a device has room for: where an autoencoder's images are too large for its bindings, or for memory, they are
//! computed in bands.

use crate::model::{Batch, Network, Recording};
use crate::plan::{Capabilities, Program, lower};
use crate::{Code, Result};

/// The largest image that is kept where tiling was asked for: KL-f8 decodes 512 x 512 pixels in 230 MB beside its weights.
pub(super) const TILED: usize = 64 << 20;
/// The most memory of activations without tiling.
const MOST: u64 = 1 << 30;
/// Images that are this small are kept in any case.
const LEAST: usize = 8 << 20;

/// A network's Program, in as few bands as it takes.
///
/// # Errors
/// As [`lower`].
pub fn fitting(network: &Network, mut batch: Batch, capabilities: &Capabilities) -> Result<(Recording, Program)> {
    loop {
        let recording = network.record(batch)?;
        let lowered = lower(&recording.plan, capabilities, &[]);
        let fits = match &lowered {
            Ok(program) => program.activation_bytes() <= MOST,
            Err(error) => error.code != Code::LimitTooSmall,
        };
        let next = batch.tiled.map_or(capabilities.max_binding.min(MOST as usize), |most| most / 2);
        if fits || next < LEAST || !network.tiles() {
            return Ok((recording, lowered?));
        }
        batch.tiled = Some(next);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::json::json;

    /// KL-f8 at 512 x 512: the published size.
    #[test]
    fn a_large_decoder_is_tiled_by_what_a_binding_holds_and_by_what_is_asked() {
        let params = json!({ "block_out_channels": [128, 256, 512, 512], "layers_per_block": 2 });
        let network = Network::of("autoencoder_kl_decoder", &params).unwrap();
        let at = |side| Batch { size: Some([side; 2]), ..Batch::plain(1) };
        let program = |batch, max_binding| {
            let capabilities = Capabilities { max_binding, ..Capabilities::WEBGPU };
            let (_, program) = fitting(&network, batch, &capabilities).unwrap();
            let largest = program.slab_bytes.iter().chain([&program.io_bytes]).max().copied().unwrap_or(0);
            assert!(largest <= max_binding);
            program
        };
        let (small, usual, large) = (32 << 20, 128 << 20, 1 << 30);
        let whole = program(at(64), large);
        let [limited, tiled, scarce] =
            [program(at(64), usual), program(Batch { tiled: Some(TILED), ..at(64) }, large), program(at(32), small)];
        assert_eq!(program(at(32), usual), fitting(&network, at(32), &Capabilities::WEBGPU).unwrap().1);
        let megabytes = |program: &Program| program.activation_bytes() / 1_000_000;
        assert_eq!([&whole, &limited, &tiled, &scarce].map(megabytes), [674, 405, 223, 101]);
        // Beyond a gibibyte nobody has to ask.
        assert!(program(at(96), large).activation_bytes() < MOST);
    }

    #[test]
    fn what_cannot_be_tiled_says_what_it_needs() {
        let network =
            Network::of("prefix_encoder", &json!({ "prefix_dim": 64, "hidden_dim": 12, "tokens": 77 })).unwrap();
        let scarce = Capabilities { max_binding: 1 << 10, ..Capabilities::WEBGPU };
        assert_eq!(fitting(&network, Batch::plain(1), &scarce).unwrap_err().code, Code::LimitTooSmall);
    }
}
