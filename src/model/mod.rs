//! Networks: configuration, tensor names, and the Plan that each records. One file a network; nothing here knows
//! devices, stored dtypes or time.

mod adaln;
pub mod autoencoder_kl;
pub mod autoencoder_tiny;
pub mod caption_decoder;
pub mod clip;
pub mod clip_text;
pub mod clip_vision;
pub mod dit;
pub mod latte;
pub mod mmdit;
mod ports;
pub mod prefix_encoder;
mod sample;
mod transformer;
pub mod unidiffuser;
pub mod uvit;
pub mod uvit_t2i;
pub mod uvit_video;

pub use ports::{Port, PortKind, Recording, Sampled};
pub use sample::Sample;

use crate::json::{self, Read, Value, Write};
use crate::{Code, Error, Result};

/// How many items one forward holds, and of what size.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Batch {
    /// Images that are being sampled.
    pub images: usize,
    /// Network items an image: 2 with guidance (conditional items first, then unconditional ones), else 1.
    pub copies: usize,
    /// Height and width of latents, where they are not the network's own.
    pub size: Option<[usize; 2]>,
    /// Bytes of the largest image inside an autoencoder that is kept: larger ones are computed in bands of rows, and again where
    /// they are needed again. The result is the same, for less memory and more time.
    pub tiled: Option<usize>,
}

impl Batch {
    /// `images` items, no guidance.
    pub fn plain(images: usize) -> Batch {
        Batch::copied(images, 1)
    }

    /// Every image so many times.
    pub fn copied(images: usize, copies: usize) -> Batch {
        Batch { images, copies, size: None, tiled: None }
    }

    /// Items of the network.
    pub fn items(self) -> usize {
        self.images * self.copies
    }
}

/// A network that this build can run.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum Network {
    /// U-ViT, unconditional or class-conditional.
    Uvit(uvit::Config),
    /// U-ViT for text to image.
    UvitT2i(uvit_t2i::Config),
    /// U-ViT of clips.
    UvitVideo(uvit_video::Config),
    /// DiT.
    Dit(dit::Config),
    /// Latte, a DiT of clips.
    Latte(latte::Config),
    /// UniDiffuser's U-ViT.
    UniDiffuser(unidiffuser::Config),
    /// Stable Diffusion 3's transformer.
    Mmdit(mmdit::Config),
    /// CLIP's text encoder.
    ClipText(clip_text::Config),
    /// CLIP's image encoder.
    ClipVision(clip_vision::Config),
    /// The decoder of latent diffusion's autoencoder.
    AutoencoderKlDecoder(autoencoder_kl::Config),
    /// Its encoder.
    AutoencoderKlEncoder(autoencoder_kl::Config),
    /// The decoder of a tiny autoencoder.
    AutoencoderTinyDecoder(autoencoder_tiny::Config),
    /// Its encoder.
    AutoencoderTinyEncoder(autoencoder_tiny::Config),
    /// From a text encoder's features to UniDiffuser's text latents.
    PrefixEncoder(prefix_encoder::Config),
    /// From UniDiffuser's text latents to captions.
    CaptionDecoder(caption_decoder::Config),
}

/// Makes a network of its parameters.
type Make = fn(&Value) -> json::Result<Network>;

/// The networks by name.
const REGISTRY: &[(&str, Make)] = &[
    ("uvit", |params| Read::read(params).map(Network::Uvit)),
    ("uvit_t2i", |params| Read::read(params).map(Network::UvitT2i)),
    ("uvit_video", |params| Read::read(params).map(Network::UvitVideo)),
    ("dit", |params| Read::read(params).map(Network::Dit)),
    ("latte", |params| Read::read(params).map(Network::Latte)),
    ("unidiffuser", |params| Read::read(params).map(Network::UniDiffuser)),
    ("mmdit", |params| Read::read(params).map(Network::Mmdit)),
    ("clip_text", |params| Read::read(params).map(Network::ClipText)),
    ("clip_vision", |params| Read::read(params).map(Network::ClipVision)),
    ("autoencoder_kl_decoder", |params| autoencoder_kl::Config::of(params).map(Network::AutoencoderKlDecoder)),
    ("autoencoder_kl_encoder", |params| autoencoder_kl::Config::of(params).map(Network::AutoencoderKlEncoder)),
    ("autoencoder_tiny_decoder", |params| Read::read(params).map(Network::AutoencoderTinyDecoder)),
    ("autoencoder_tiny_encoder", |params| Read::read(params).map(Network::AutoencoderTinyEncoder)),
    ("prefix_encoder", |params| Read::read(params).map(Network::PrefixEncoder)),
    ("caption_decoder", |params| Read::read(params).map(Network::CaptionDecoder)),
];

/// One expression for all networks.
macro_rules! each {
    ($network:expr, $config:ident => $body:expr) => {
        match $network {
            Network::Uvit($config) => $body,
            Network::UvitT2i($config) => $body,
            Network::UvitVideo($config) => $body,
            Network::Dit($config) => $body,
            Network::Latte($config) => $body,
            Network::UniDiffuser($config) => $body,
            Network::Mmdit($config) => $body,
            Network::ClipText($config) => $body,
            Network::ClipVision($config) => $body,
            Network::AutoencoderKlDecoder($config) | Network::AutoencoderKlEncoder($config) => $body,
            Network::AutoencoderTinyDecoder($config) | Network::AutoencoderTinyEncoder($config) => $body,
            Network::PrefixEncoder($config) => $body,
            Network::CaptionDecoder($config) => $body,
        }
    };
}

impl Network {
    /// The network of that name with its constructor's arguments; fields that it does not know are ignored.
    ///
    /// # Errors
    /// `UNSUPPORTED_MODEL` naming the networks that there are, `INVALID_ARGUMENT` for a parameter that is missing or of
    /// another type.
    pub fn of(architecture: &str, params: &Value) -> Result<Network> {
        let Some((_, make)) = REGISTRY.iter().find(|(name, _)| *name == architecture) else {
            let known: Vec<&str> = REGISTRY.iter().map(|(name, _)| *name).collect();
            return Err(Error::new(
                Code::UnsupportedModel,
                format!("the architecture is \"{architecture}\", this build knows {}", known.join(", ")),
                "Use a version of uvit-web that knows this architecture",
            ));
        };
        make(params).map_err(|what| {
            let cause = format!("the parameters of {architecture}: {what}");
            Error::new(Code::InvalidArgument, cause, "Give the published constructor's arguments under their names")
        })
    }

    /// Its name.
    pub fn architecture(&self) -> &'static str {
        match self {
            Network::Uvit(_) => "uvit",
            Network::UvitT2i(_) => "uvit_t2i",
            Network::UvitVideo(_) => "uvit_video",
            Network::Dit(_) => "dit",
            Network::Latte(_) => "latte",
            Network::UniDiffuser(_) => "unidiffuser",
            Network::Mmdit(_) => "mmdit",
            Network::ClipText(_) => "clip_text",
            Network::ClipVision(_) => "clip_vision",
            Network::AutoencoderKlDecoder(_) => "autoencoder_kl_decoder",
            Network::AutoencoderKlEncoder(_) => "autoencoder_kl_encoder",
            Network::AutoencoderTinyDecoder(_) => "autoencoder_tiny_decoder",
            Network::AutoencoderTinyEncoder(_) => "autoencoder_tiny_encoder",
            Network::PrefixEncoder(_) => "prefix_encoder",
            Network::CaptionDecoder(_) => "caption_decoder",
        }
    }

    /// Its constructor's arguments.
    pub fn params(&self) -> Value {
        each!(self, config => config.write())
    }

    /// Records the network for a batch.
    ///
    /// # Errors
    /// `UNSUPPORTED_MODEL` for a configuration that contradicts itself.
    pub fn record(&self, batch: Batch) -> Result<Recording> {
        match self {
            Network::Uvit(config) => config.record(batch),
            Network::UvitT2i(config) => config.record(batch),
            Network::UvitVideo(config) => config.record(batch),
            Network::Dit(config) => config.record(batch),
            Network::Latte(config) => config.record(batch),
            Network::UniDiffuser(config) => config.record(batch),
            Network::Mmdit(config) => config.record(batch),
            Network::ClipText(config) => config.record(batch),
            Network::ClipVision(config) => config.record(batch),
            Network::AutoencoderKlDecoder(config) => config.decoder(batch),
            Network::AutoencoderKlEncoder(config) => config.encoder(batch),
            Network::AutoencoderTinyDecoder(config) => config.decoder(batch),
            Network::AutoencoderTinyEncoder(config) => config.encoder(batch),
            Network::PrefixEncoder(config) => config.record(batch),
            Network::CaptionDecoder(config) => config.record(batch),
        }
    }

    /// `[channels, height, width]` of one image or latent, or of a clip's frame; zeros for networks that draw none.
    pub fn image_shape(&self) -> [usize; 3] {
        let [channels, size] = match self {
            Network::Uvit(config) => [config.in_chans, config.img_size],
            Network::UvitT2i(config) => [config.in_chans, config.img_size],
            Network::UvitVideo(config) => [config.uvit.in_chans, config.uvit.img_size],
            Network::Dit(config) => [config.in_channels, config.input_size],
            Network::Latte(config) => [config.dit.in_channels, config.dit.input_size],
            Network::UniDiffuser(config) => [config.in_chans, config.img_size],
            Network::Mmdit(config) => [config.in_channels, config.sample_size],
            _ => [0, 0],
        };
        [channels, size, size]
    }

    /// Frames of a clip; none for networks that draw single pictures.
    pub fn frames(&self) -> Option<usize> {
        match self {
            Network::UvitVideo(config) => Some(config.num_frames),
            Network::Latte(config) => Some(config.num_frames),
            _ => None,
        }
    }

    /// What it draws for one item.
    pub fn sample(&self) -> Sample {
        Sample {
            picture: self.image_shape(),
            frames: self.frames(),
            channels_first: !matches!(self, Network::Latte(_)),
        }
    }

    /// The shape of the port that is drawn first, without the batch: `[channels, height, width]`, of clips `[channels, frames,
    /// height, width]` or `[frames, channels, height, width]`.
    pub fn sample_shape(&self) -> Vec<usize> {
        self.sample().shape()
    }

    /// Whether [`Batch::tiled`] means anything to it.
    pub fn tiles(&self) -> bool {
        matches!(self, Network::AutoencoderKlDecoder(_) | Network::AutoencoderKlEncoder(_))
    }

    /// Pixels of a picture to one of a latent, for an autoencoder's halves; else 1.
    pub fn downsampling(&self) -> usize {
        match self {
            Network::AutoencoderKlDecoder(config) | Network::AutoencoderKlEncoder(config) => config.downsampling(),
            Network::AutoencoderTinyDecoder(config) | Network::AutoencoderTinyEncoder(config) => config.downsampling(),
            _ => 1,
        }
    }

    /// Tokens of one item.
    pub fn tokens(&self) -> usize {
        each!(self, config => config.tokens())
    }

    /// The port that takes a text's tokens, for networks that draw what a text says.
    pub fn text_port(&self) -> Option<&'static str> {
        match self {
            Network::UvitT2i(_) => Some("context"),
            Network::UniDiffuser(_) => Some("text"),
            Network::Mmdit(_) => Some("context_in"),
            _ => None,
        }
    }

    /// What a text encoder's tokenizer fills texts up with, as [`clip_text::Config::pad_token`]; empty for other networks.
    pub fn pad_token(&self) -> &str {
        match self {
            Network::ClipText(config) => &config.pad_token,
            _ => "",
        }
    }

    /// What a step leaves out that runs only `outer` blocks at either end: the kernels from the one after the first tensor
    /// to the one that writes the second, by their names. None if there are no blocks between.
    pub fn inner_blocks(&self, outer: usize) -> Option<[String; 2]> {
        match self {
            Network::Uvit(config) => config.inner_blocks(outer),
            Network::UvitT2i(config) => config.inner_blocks(outer),
            Network::UvitVideo(config) => config.inner_blocks(outer),
            Network::UniDiffuser(config) => config.inner_blocks(outer),
            _ => None,
        }
    }

    /// Number of class labels, the null class included; 0 for networks without.
    pub fn classes(&self) -> usize {
        match self {
            Network::Uvit(config) => config.num_classes.max(0) as usize,
            Network::UvitVideo(config) => config.uvit.num_classes.max(0) as usize,
            Network::Dit(config) => config.num_classes + 1,
            Network::Latte(config) => config.classes(),
            _ => 0,
        }
    }
}
