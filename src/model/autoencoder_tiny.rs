//! The tiny autoencoder TAESD (Ollin Boer Bohan, madebyollin/taesd), the two halves as networks of their own. Follows
//! `AutoencoderTiny` of huggingface/diffusers 0.42.1 (`models/autoencoders/autoencoder_tiny.py`, `vae.py`), tensor names included.

use super::transformer::{unsupported, within};
use super::{Batch, Port, PortKind, Recording};
use crate::Result;
use crate::decimal::decimal;
use crate::json;
use crate::plan::{Activation, Plan, Role, TensorId, Window};

/// The published configuration, under its names.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// Channels of a picture that is encoded.
    pub in_channels: usize,
    /// Channels of a picture that was decoded.
    pub out_channels: usize,
    /// Channels of the encoder's stages: all alike.
    pub encoder_block_out_channels: Vec<usize>,
    /// Channels of the decoder's stages: all alike.
    pub decoder_block_out_channels: Vec<usize>,
    /// Blocks of each stage of the encoder.
    pub num_encoder_blocks: Vec<usize>,
    /// Blocks of each stage of the decoder.
    pub num_decoder_blocks: Vec<usize>,
    /// Channels of a latent.
    pub latent_channels: usize,
    /// From stage to stage of the decoder: 2.
    pub upsampling_scaling_factor: usize,
    /// Height and width of a picture, where nothing else is said.
    pub sample_size: usize,
    /// A latent as denoisers see it is so many times this network's.
    pub scaling_factor: f64,
}

json::fields!(Config {
    in_channels = 3,
    out_channels = 3,
    encoder_block_out_channels = vec![64; 4],
    decoder_block_out_channels = vec![64; 4],
    num_encoder_blocks = vec![1, 3, 3, 3],
    num_decoder_blocks = vec![3, 3, 3, 1],
    latent_channels = 4,
    upsampling_scaling_factor = 2,
    sample_size = 512,
    scaling_factor = 1.0,
});

impl Config {
    /// Pixels of a picture to one of a latent, in either direction.
    pub fn downsampling(&self) -> usize {
        1 << self.num_decoder_blocks.len().saturating_sub(1).min(16)
    }

    /// Pixels of a latent.
    pub fn tokens(&self) -> usize {
        (self.sample_size / self.downsampling()).pow(2)
    }

    fn validate(&self, [height, width]: [usize; 2]) -> Result<()> {
        for (name, channels, blocks) in [
            ("encoder", &self.encoder_block_out_channels, &self.num_encoder_blocks),
            ("decoder", &self.decoder_block_out_channels, &self.num_decoder_blocks),
        ] {
            within("stages", blocks.len(), 8)?;
            within("block_out_channels", channels.first().copied().unwrap_or(0), 2048)?;
            if channels.len() != blocks.len() || channels.iter().any(|&c| c != channels[0]) {
                let cause = format!("{name}_block_out_channels is {channels:?}: {} alike are needed", blocks.len());
                return Err(unsupported(cause));
            }
            if let Some(many) = blocks.iter().find(|&&blocks| blocks > 64) {
                return Err(unsupported(format!("num_{name}_blocks has {many}")));
            }
        }
        for (name, value, most) in [
            ("in_channels", self.in_channels, 16),
            ("out_channels", self.out_channels, 16),
            ("latent_channels", self.latent_channels, 64),
            ("a picture's height", height, 8192),
            ("a picture's width", width, 8192),
        ] {
            within(name, value, most)?;
        }
        if self.upsampling_scaling_factor != 2 || self.num_encoder_blocks.len() != self.num_decoder_blocks.len() {
            return Err(unsupported("a tiny autoencoder halves and doubles from stage to stage".into()));
        }
        let by = self.downsampling();
        if !height.is_multiple_of(by) || !width.is_multiple_of(by) {
            return Err(unsupported(format!("{height} x {width} pixels are no multiple of {by}")));
        }
        if !(self.scaling_factor.is_finite() && self.scaling_factor != 0.0) {
            return Err(unsupported(format!("scaling_factor is {}", decimal(self.scaling_factor))));
        }
        Ok(())
    }

    /// Records the decoder: ports `z [items, latent_channels, h, w]`, a latent as denoisers draw it, and `decoded [items,
    /// out_channels, H, W]`, about -1 to 1, not clipped. The batch's size is that of the latents.
    ///
    /// # Errors
    /// `UNSUPPORTED_MODEL` if the parameters contradict each other.
    pub fn decoder(&self, batch: Batch) -> Result<Recording> {
        let by = self.downsampling();
        let mut size = batch.size.unwrap_or([self.sample_size / by; 2]);
        self.validate(size.map(|n| n.saturating_mul(by)))?;
        let mut plan = Plan::default();
        let z = plan.tensor("z", &[batch.items(), self.latent_channels, size[0], size[1]], Role::Input);
        // 3 tanh(z / 3): far latents come no farther.
        let bounded = plan.affine(z, (1.0 / (3.0 * self.scaling_factor)) as f32, 0.0);
        let bounded = plan.activate("", Activation::Tanh, bounded);
        let bounded = plan.affine(bounded, 3.0, 0.0);
        let channels = self.decoder_block_out_channels[0];
        let mut layers = Layers { half: "decoder", next: 0 };
        let mut x = plan.image_tokens(bounded);
        x = plan.convolution(&layers.name(), x, Window::plain(size), channels, true);
        layers.skip();
        x = plan.activate("", Activation::Relu, x);
        for (i, &blocks) in self.num_decoder_blocks.iter().enumerate() {
            for _ in 0..blocks {
                x = block(&mut plan, &layers.name(), x, size);
            }
            let is_last = i + 1 == self.num_decoder_blocks.len();
            if is_last {
                x = plan.convolution(&layers.name(), x, Window::plain(size), self.out_channels, true);
            } else {
                layers.skip();
                x = plan.convolution(&layers.name(), x, Window::upsampled(size), channels, false);
                size = size.map(|n| 2 * n);
            }
        }
        let shown = plan.image("", x, size, Role::Scratch);
        let decoded = plan.affine(shown, 2.0, -1.0);
        output(&mut plan, "decoded", decoded);
        let ports = vec![
            Port { name: "z", kind: PortKind::Floats, tensor: z },
            Port { name: "decoded", kind: PortKind::Output, tensor: decoded },
        ];
        Ok(Recording { plan, ports, sampled: Vec::new() })
    }

    /// Records the encoder: ports `image [items, in_channels, H, W]` in [-1, 1], and `latents [items, latent_channels, h, w]` as
    /// denoisers see them. The batch's size is that of the picture.
    ///
    /// # Errors
    /// `UNSUPPORTED_MODEL` if the parameters contradict each other.
    pub fn encoder(&self, batch: Batch) -> Result<Recording> {
        let mut size = batch.size.unwrap_or([self.sample_size; 2]);
        self.validate(size)?;
        let mut plan = Plan::default();
        let picture = plan.tensor("image", &[batch.items(), self.in_channels, size[0], size[1]], Role::Input);
        let shown = plan.affine(picture, 0.5, 0.5);
        let channels = self.encoder_block_out_channels[0];
        let mut layers = Layers { half: "encoder", next: 0 };
        let mut x = plan.image_tokens(shown);
        for (i, &blocks) in self.num_encoder_blocks.iter().enumerate() {
            let window = if i == 0 { Window::plain(size) } else { Window::strided(size, 1) };
            x = plan.convolution(&layers.name(), x, window, channels, i == 0);
            size = [window.out_height, window.out_width];
            for _ in 0..blocks {
                x = block(&mut plan, &layers.name(), x, size);
            }
        }
        x = plan.convolution(&layers.name(), x, Window::plain(size), self.latent_channels, true);
        let own = plan.image("", x, size, Role::Scratch);
        let latents = plan.affine(own, self.scaling_factor as f32, 0.0);
        output(&mut plan, "latents", latents);
        let ports = vec![
            Port { name: "image", kind: PortKind::Floats, tensor: picture },
            Port { name: "latents", kind: PortKind::Output, tensor: latents },
        ];
        Ok(Recording { plan, ports, sampled: Vec::new() })
    }
}

/// Layers are numbered through a half, those without weights too.
struct Layers {
    half: &'static str,
    next: usize,
}

impl Layers {
    fn name(&mut self) -> String {
        self.next += 1;
        format!("{}.layers.{}", self.half, self.next - 1)
    }

    fn skip(&mut self) {
        self.next += 1;
    }
}

fn output(plan: &mut Plan, name: &str, id: TensorId) {
    let tensor = &mut plan.tensors[id.index()];
    (tensor.name, tensor.role) = (name.into(), Role::Output);
}

/// `relu(conv.4(relu(conv.2(relu(conv.0 x)))) + x)`.
fn block(plan: &mut Plan, name: &str, x: TensorId, size: [usize; 2]) -> TensorId {
    let (channels, window) = (plan.shape(x)[2], Window::plain(size));
    let mut inner = x;
    for i in [0, 2] {
        inner = plan.convolution(&format!("{name}.conv.{i}"), inner, window, channels, true);
        inner = plan.activate("", Activation::Relu, inner);
    }
    inner = plan.convolution(&format!("{name}.conv.4"), inner, window, channels, true);
    let sum = plan.add("", x, inner);
    plan.activate(name, Activation::Relu, sum)
}
