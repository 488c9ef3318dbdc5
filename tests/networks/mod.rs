//! Several networks on one device: the same test natively and in the browser, on every kind of device.

use uvit_web::model::{
    Batch, Network, PortKind, autoencoder_kl, caption_decoder, clip, clip_text, clip_vision, dit, latte, mmdit,
    prefix_encoder, unidiffuser, uvit, uvit_t2i, uvit_video,
};
use uvit_web::pipeline::{Component, Denoiser, Guidance, NamedTensor, Shape, Values};
use uvit_web::plan::{Activation, Compute, WeightUse, lower};
use uvit_web::runtime::{Device, Loading, Session};
use uvit_web::sampler::TorchGenerator;
use uvit_web::weights::Dtype;
use uvit_web::weights::random;

/// Class-conditional, 18 tokens.
pub fn class_network() -> Network {
    Network::Uvit(uvit::Config {
        img_size: 16,
        patch_size: 4,
        in_chans: 3,
        embed_dim: 64,
        depth: 3,
        num_heads: 2,
        mlp_ratio: 4.0,
        qkv_bias: false,
        mlp_time_embed: true,
        num_classes: 5,
        conv: true,
        skip: true,
    })
}

/// Clips of six frames in patches of three frames, rows and columns, of one channel: 27 values, and 10 tokens.
pub fn clip_network() -> Network {
    Network::UvitVideo(clip_config(6, 3))
}

/// Its parameters, of other frames.
pub fn clip_config(num_frames: usize, t_patch_size: usize) -> uvit_video::Config {
    let Network::Uvit(class) = class_network() else { panic!("a U-ViT") };
    let uvit = uvit::Config {
        img_size: 6,
        patch_size: 3,
        in_chans: 1,
        embed_dim: 48,
        num_heads: 3,
        mlp_ratio: 2.5,
        qkv_bias: true,
        ..class
    };
    uvit_video::Config { uvit, num_frames, t_patch_size }
}

/// Text, an embedding and latents at once.
pub fn joint_network() -> Network {
    Network::UniDiffuser(unidiffuser::Config {
        version: 1,
        img_size: 8,
        in_chans: 4,
        patch_size: 2,
        embed_dim: 96,
        depth: 2,
        num_heads: 2,
        mlp_ratio: 4.0,
        qkv_bias: true,
        mlp_time_embed: true,
        text_dim: 12,
        num_text_tokens: 7,
        clip_img_dim: 20,
    })
}

/// Text to image, larger than the others.
pub fn text_network() -> Network {
    Network::UvitT2i(uvit_t2i::Config {
        img_size: 16,
        patch_size: 2,
        in_chans: 4,
        embed_dim: 128,
        depth: 4,
        num_heads: 4,
        mlp_ratio: 4.0,
        qkv_bias: false,
        mlp_time_embed: false,
        clip_dim: 24,
        num_clip_token: 7,
        conv: true,
        skip: true,
    })
}

/// DiT with a variance: nine patches of 3 x 3, three heads of 16.
pub fn vector_network() -> Network {
    Network::Dit(vector_config())
}

/// Its parameters.
pub fn vector_config() -> dit::Config {
    dit::Config {
        input_size: 9,
        patch_size: 3,
        in_channels: 4,
        hidden_size: 48,
        depth: 2,
        num_heads: 3,
        mlp_ratio: 3.0,
        num_classes: 6,
        learn_sigma: true,
    }
}

/// Latte, of five frames of those.
pub fn frames_network() -> Network {
    Network::Latte(latte::Config { dit: vector_config(), num_frames: 5, extras: 2 })
}

/// Stable Diffusion 3's transformer: two blocks, of which the first attends twice, with RMS norm of heads or without; 25 patches and
/// seven words.
pub fn streams_network(qk_norm: &str) -> Network {
    Network::Mmdit(mmdit::Config {
        sample_size: 10,
        patch_size: 2,
        in_channels: 4,
        out_channels: 4,
        num_layers: 2,
        attention_head_dim: 16,
        num_attention_heads: 3,
        joint_attention_dim: 20,
        caption_projection_dim: 48,
        pooled_projection_dim: 28,
        pos_embed_max_size: 8,
        qk_norm: qk_norm.into(),
        dual_attention_layers: vec![0],
        context_tokens: 7,
    })
}

/// CLIP's text encoder, with a projection.
pub fn words_network() -> Network {
    Network::ClipText(words_config())
}

/// Its parameters.
pub fn words_config() -> clip_text::Config {
    clip_text::Config {
        hidden_state: 0,
        pad_token: "<|endoftext|>".into(),
        vocab_size: 30,
        hidden_size: 64,
        intermediate_size: 96,
        num_hidden_layers: 2,
        num_attention_heads: 2,
        max_position_embeddings: 11,
        hidden_act: clip::Act(Activation::QuickGelu),
        layer_norm_eps: 1e-5,
        projection_dim: 48,
    }
}

/// CLIP's image encoder, of pictures of 15 rows and columns in patches of 5.
pub fn seeing_network() -> Network {
    Network::ClipVision(clip_vision::Config {
        hidden_size: 48,
        intermediate_size: 80,
        num_hidden_layers: 2,
        num_attention_heads: 4,
        image_size: 15,
        patch_size: 5,
        hidden_act: clip::Act(Activation::QuickGelu),
        layer_norm_eps: 1e-5,
        projection_dim: 20,
    })
}

/// From a text encoder's features to text latents.
pub fn prefix_network() -> Network {
    Network::PrefixEncoder(prefix_encoder::Config { prefix_dim: 64, hidden_dim: 12, tokens: 7 })
}

/// From such latents to captions: three heads, and a vocabulary that is no multiple of four.
pub fn captions_network() -> Network {
    Network::CaptionDecoder(captions_config())
}

/// Its parameters.
pub fn captions_config() -> caption_decoder::Config {
    let gpt2 = caption_decoder::Gpt2 {
        vocab_size: 37,
        n_positions: 20,
        n_embd: 36,
        n_layer: 2,
        n_head: 3,
        activation_function: clip::Act(Activation::GeluTanh),
        layer_norm_epsilon: 1e-5,
    };
    caption_decoder::Config { gpt2, prefix_length: 7, hidden_dim: 12, stop_token: 36, beam_size: 3, entry_length: 11 }
}

/// Both halves of an autoencoder, of pictures of 24 rows and columns.
pub fn autoencoders() -> [Network; 2] {
    let config = autoencoder_kl::Config {
        in_channels: 3,
        out_channels: 3,
        block_out_channels: vec![16, 24, 32],
        base_channels: 0,
        layers_per_block: 1,
        latent_channels: 4,
        norm_num_groups: 4,
        sample_size: 24,
        scaling_factor: 0.5,
        shift_factor: 0.1,
        use_quant_conv: true,
        use_post_quant_conv: true,
    };
    [Network::AutoencoderKlDecoder(config.clone()), Network::AutoencoderKlEncoder(config)]
}

/// A network with random weights in q8.
pub async fn load(device: &Device, compute: Compute, network: Network) -> uvit_web::Result<Component> {
    let plan = network.record(Batch::plain(1))?.plan;
    let mut generator = TorchGenerator::new(3);
    let mut loading = Loading::new(device, compute)?;
    let mut stored = Vec::new();
    for (id, weight, form) in plan.loads(compute) {
        let kind = if weight.usage == WeightUse::Matrix { (Dtype::Q8, 0) } else { (Dtype::F32, 0) };
        stored.push(kind);
        let tensor = random::tensor(&weight.name, &weight.shape, Some(kind), &mut generator);
        loading.load(id, weight, form, &tensor).await?;
    }
    Ok(Component::new(network, loading.finish().await?, stored, Vec::new()))
}

/// Tensors for all ports of so many items.
pub fn inputs(network: &Network, items: usize) -> Vec<NamedTensor> {
    inputs_of(network, Batch::plain(items))
}

/// The same of a batch.
pub fn inputs_of(network: &Network, batch: Batch) -> Vec<NamedTensor> {
    let recording = network.record(batch).unwrap();
    let mut generator = TorchGenerator::new(4);
    let ports = recording.ports.iter().filter(|port| port.kind != PortKind::Output);
    let tensor = |port: &uvit_web::model::Port| {
        let elements = recording.plan.shape(port.tensor).iter().product::<usize>();
        NamedTensor::new(
            port.name,
            match port.kind {
                PortKind::Time => Values::Times((0..elements).map(|i| 700.0 - 90.0 * i as f64).collect()),
                PortKind::Indices { of } => Values::Indices((0..elements).map(|i| (i % of) as u32).collect()),
                _ => Values::Floats(generator.randn_f32(elements)),
            },
        )
    };
    ports.map(tensor).collect()
}

async fn forward(component: &mut Component) -> Vec<NamedTensor> {
    let given = inputs(component.network(), 2);
    let results = component.forward(&given, &|| false).await.unwrap();
    for result in &results {
        let Values::Floats(values) = &result.values else { panic!("floats come out") };
        assert!(values.iter().any(|v| v.abs() > 1e-3), "{} is flat", result.name);
    }
    results
}

/// Two networks take turns; one is freed, a third takes its place; memory and results are what they were.
pub async fn come_and_go(device: &Device, compute: Compute) {
    let start = device.memory().bytes;
    let mut a = load(device, compute, class_network()).await.unwrap();
    let of_a = forward(&mut a).await;
    let with_a = device.memory().bytes;
    assert!(with_a > start);
    let mut b = load(device, compute, joint_network()).await.unwrap();
    let of_b = forward(&mut b).await;
    assert_eq!(
        of_b.iter().map(|result| result.name.as_str()).collect::<Vec<_>>(),
        ["img_out", "clip_img_out", "text_out"]
    );
    let with_b = device.memory().bytes;
    assert!(with_b > with_a);
    for _ in 0..3 {
        assert!(forward(&mut a).await == of_a && forward(&mut b).await == of_b, "taking turns changes numbers");
    }
    assert_eq!(device.memory().bytes, with_b);
    drop(b);
    assert_eq!(device.memory().bytes, with_a);
    let mut c = load(device, compute, text_network()).await.unwrap();
    forward(&mut c).await;
    assert!(forward(&mut a).await == of_a, "a third network changes the first one's numbers");
    drop(c);
    assert_eq!(device.memory().bytes, with_a);
    let mut b = load(device, compute, joint_network()).await.unwrap();
    assert!(forward(&mut b).await == of_b, "a network that comes back has other numbers");
    assert_eq!(device.memory().bytes, with_b);
    let mut words = load(device, compute, words_network()).await.unwrap();
    let of_words = forward(&mut words).await;
    assert_eq!(of_words.len(), 2);
    assert!(forward(&mut b).await == of_b && forward(&mut words).await == of_words, "words change another's numbers");
    let mut prefix = load(device, compute, prefix_network()).await.unwrap();
    let of_prefix = forward(&mut prefix).await;
    assert!(forward(&mut words).await == of_words && forward(&mut prefix).await == of_prefix);
    let mut seeing = load(device, compute, seeing_network()).await.unwrap();
    let of_seeing = forward(&mut seeing).await;
    assert_eq!(
        of_seeing.iter().map(|result| result.name.as_str()).collect::<Vec<_>>(),
        ["image_embeds", "last_hidden_state"]
    );
    assert!(forward(&mut prefix).await == of_prefix && forward(&mut seeing).await == of_seeing);
    let mut captions = load(device, compute, captions_network()).await.unwrap();
    let of_captions = forward(&mut captions).await;
    assert!(forward(&mut prefix).await == of_prefix && forward(&mut captions).await == of_captions);
    let mut clips = load(device, compute, clip_network()).await.unwrap();
    let of_clips = forward(&mut clips).await;
    assert!(forward(&mut captions).await == of_captions && forward(&mut clips).await == of_clips);
    let mut streams = load(device, compute, streams_network("rms_norm")).await.unwrap();
    let of_streams = forward(&mut streams).await;
    assert!(forward(&mut clips).await == of_clips && forward(&mut streams).await == of_streams);
    let mut vectors = load(device, compute, vector_network()).await.unwrap();
    let of_vectors = forward(&mut vectors).await;
    assert_eq!(of_vectors.iter().map(|result| result.name.as_str()).collect::<Vec<_>>(), ["out", "variance"]);
    let mut frames = load(device, compute, frames_network()).await.unwrap();
    let of_frames = forward(&mut frames).await;
    assert!(forward(&mut vectors).await == of_vectors && forward(&mut frames).await == of_frames);
    drop((a, b, words, prefix, seeing, captions, clips, streams, vectors, frames));
    assert_eq!(device.memory().bytes, start);
}

/// Rounds of loading, sampling and dropping: memory stays flat.
pub async fn rounds(device: &Device, compute: Compute) {
    let mut after = Vec::new();
    let mut peak = Vec::new();
    for _ in 0..20 {
        let mut component = load(device, compute, class_network()).await.unwrap();
        let labels = |label| vec![NamedTensor::new("y", Values::Indices(vec![label; 2]))];
        let guidance = Guidance::classifier_free(labels(1), labels(4), 2.0);
        let shape = Shape {
            batch: guidance.batch(2),
            drawn: 0..1,
            scratch_slots: 2,
            workers: 1,
            outer: Some(1),
            masked: false,
            absent: Vec::new(),
        };
        let mut denoiser = Denoiser::new(&mut component, shape).await.unwrap();
        denoiser.give(&guidance).unwrap();
        let pass = uvit_web::pipeline::Pass { guided: true, whole: true };
        denoiser.evaluate(500.0, pass, None, &|| false).await.unwrap();
        peak.push(device.memory().bytes);
        drop((denoiser, component));
        after.push(device.memory().bytes);
    }
    assert!(
        peak.iter().all(|bytes| *bytes == peak[0]) && after.iter().all(|bytes| *bytes == after[0]),
        "{peak:?} {after:?}"
    );
}

/// What a second network takes in one piece at least, where the first and all on the way to it take less.
pub const LARGE: usize = 400_000;

/// A second network for which there is no memory says how much it needs, and the first goes on as if nothing had been.
/// `exhaust` takes all memory in large pieces, until what it returns is dropped.
pub async fn memory_runs_out<T>(device: &Device, compute: Compute, exhaust: impl FnOnce() -> T) {
    let start = device.memory().bytes;
    let mut first = load(device, compute, class_network()).await.unwrap();
    let before = forward(&mut first).await;
    let with_first = device.memory().bytes;
    let exhausted = exhaust();
    let error = load(device, compute, text_network()).await.map(drop).unwrap_err();
    let while_exhausted = forward(&mut first).await;
    drop(exhausted);
    assert_eq!(error.code, uvit_web::Code::OutOfMemory, "{error}");
    let numbers = error.cause.split(|c: char| !c.is_ascii_digit()).filter_map(|digits| digits.parse::<usize>().ok());
    assert!(numbers.max() >= Some(LARGE) && error.cause.contains("bytes"), "{error}");
    assert!(while_exhausted == before, "the first network's numbers changed");
    assert_eq!(device.memory().bytes, with_first, "what was loaded of the second network is still held");
    let mut second = load(device, compute, text_network()).await.unwrap();
    forward(&mut second).await;
    assert!(forward(&mut first).await == before);
    drop((first, second));
    assert_eq!(device.memory().bytes, start);
}

/// A Session that another one's run has come between refuses to go on: it shares its scratch memory.
pub async fn no_run_goes_on_after_anothers(device: &Device) {
    let component = load(device, Compute::F32, class_network()).await.unwrap();
    let recording = component.network().record(Batch::plain(1)).unwrap();
    let mut sessions = Vec::new();
    for _ in 0..2 {
        let program = lower(&recording.plan, &component.weights().capabilities(), &[]).unwrap();
        sessions.push(Session::new(component.weights(), program, None).await.unwrap());
    }
    let end = sessions[0].program().kernels.len();
    sessions[0].run(0..5, None, u64::MAX).unwrap();
    sessions[1].run(0..5, None, u64::MAX).unwrap();
    assert_eq!(sessions[0].run(5..end, None, u64::MAX).unwrap_err().code, uvit_web::Code::Internal);
    sessions[1].run(5..end, None, u64::MAX).unwrap();
    sessions[0].run(0..end, None, u64::MAX).unwrap();
}
