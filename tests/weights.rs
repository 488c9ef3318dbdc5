//! Files: checkpoints in, manifest and shards out and in again, and everything that can be wrong with them. Real files in
//! temporary folders; the `.pth` fixtures are PyTorch's own (`tests/weights/make_fixtures.py`).
#![cfg(feature = "cli")]

mod odd_model;

use odd_model::{config, convert, fresh, load, network};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use uvit_web::Code;
use uvit_web::json::Write;
use uvit_web::package::{DENOISER, Manifest, Storing, read_manifest, store};
use uvit_web::weights::Dtype;
use uvit_web::weights::checkpoint::{self, Checkpoint};

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests").join(name)
}

#[test]
fn every_dtype_comes_back_within_half_a_step_from_one_shard_and_from_many() {
    let want = odd_model::checkpoint(&config());
    for (dtype, group, step) in [
        (Dtype::F32, 0, 0.0),
        (Dtype::F16, 0, 1.0 / 1024.0),
        (Dtype::Q8, 0, 1.0 / 127.0),
        (Dtype::Q8, 64, 1.0 / 127.0),
        (Dtype::Q4, 32, 1.0 / 4.0),
    ] {
        let name = format!("round-trip-{}-{group}", dtype.as_str());
        let (one, many) = (fresh(&name), fresh(&format!("{name}-many")));
        let variant = |manifest: Manifest| manifest.variant(DENOISER, None).unwrap().clone();
        assert_eq!(variant(convert(&one, dtype, group, 32 << 20).unwrap()).shards.len(), 1);
        let split = variant(convert(&many, dtype, group, 2000).unwrap());
        assert!(split.shards.len() > 5);
        assert!(split.shards.iter().all(|shard| shard.bytes <= 2000), "{:?}", split.shards);
        let in_parts = split.tensors.values().filter(|entry| entry.parts.len() > 1).count();
        assert!(in_parts > 0, "{dtype:?}: no tensor was split by rows");

        let (one, many) = (load(&one).unwrap(), load(&many).unwrap());
        assert_eq!(one, many, "{dtype:?}: parts are joined to the same tensors");
        assert_eq!(one.len(), want.len());
        for (name, (shape, values)) in &want {
            assert_eq!(&one[name].shape, shape);
            let largest = values.iter().fold(0f32, |m, v| m.max(v.abs()));
            for (got, value) in one[name].to_f32().iter().zip(values) {
                assert!((got - value).abs() <= 0.5 * step * largest, "{dtype:?} {name}: {got} for {value}");
            }
        }
    }
}

#[test]
fn a_pth_file_of_pytorch_holds_what_its_safetensors_twin_holds() {
    let twin = checkpoint::read(&fixture("goldens/uvit_small_activations/weights.safetensors")).unwrap();
    assert!(twin.len() > 15);
    assert_eq!(checkpoint::read(&fixture("weights/tiny.pth")).unwrap(), twin);
    assert_eq!(checkpoint::read(&fixture("weights/nested.pth")).unwrap(), twin);
}

#[test]
fn every_float_dtype_of_a_pth_file_is_read() {
    let tensors = checkpoint::read(&fixture("weights/dtypes.pth")).unwrap();
    for dtype in ["float64", "float32", "float16", "bfloat16"] {
        assert_eq!(tensors[dtype], (vec![2, 3], vec![0.0, 1.0, -2.0, 0.5, 256.0, -0.125]), "{dtype}");
    }
    // Names that the network lacks are for the check against it to refuse.
    assert_eq!(tensors["counter"], (vec![], vec![3.0]));
    assert_eq!(tensors.len(), 5);
}

#[test]
fn pth_files_that_are_broken_or_hostile_are_refused_and_nothing_in_them_runs() {
    let whole = std::fs::read(fixture("weights/tiny.pth")).unwrap();
    let truncated = fresh("truncated").with_file_name("truncated.pth");
    std::fs::write(&truncated, &whole[..whole.len() / 2]).unwrap();
    let ran = Path::new("/tmp/uvit-web-ran-code");
    let _ = std::fs::remove_file(ran);
    for (path, cause) in [
        (fixture("weights/code.pth"), "asks for"),
        (fixture("weights/view.pth"), "view into another"),
        (fixture("weights/huge.pth"), "larger than the file"),
        (truncated, "truncated.pth"),
    ] {
        let error = checkpoint::read(&path).unwrap_err();
        assert_eq!(error.code, Code::BadCheckpoint, "{}: {error}", path.display());
        assert!(error.cause.contains(cause), "{error}");
    }
    assert!(!ran.exists());
    assert_eq!(checkpoint::read(&fixture("weights/absent.pth")).unwrap_err().code, Code::Io);
}

proptest::proptest! {
    #![proptest_config(proptest::prelude::ProptestConfig {
        failure_persistence: None, cases: 400, ..Default::default()
    })]
    #[test]
    fn pth_files_with_wrong_bytes_are_read_or_refused_but_never_panic(
        changes in proptest::collection::vec((0usize..2700, proptest::prelude::any::<u8>()), 1..6),
    ) {
        let mut bytes = std::fs::read(fixture("weights/dtypes.pth")).unwrap();
        for (at, value) in changes {
            let at = at % bytes.len();
            bytes[at] = value;
        }
        let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join("weights-mutated.pth");
        std::fs::write(&path, bytes).unwrap();
        if let Err(error) = checkpoint::read(&path) {
            proptest::prop_assert_eq!(error.code, Code::BadCheckpoint);
        }
    }
}

#[test]
fn a_checkpoint_must_hold_the_networks_tensors_all_of_them_finite_and_no_others() {
    let config = config();
    let sound = odd_model::checkpoint(&config);
    checkpoint::check(&sound, &network(&config)).unwrap();
    type Spoil = fn(&mut Checkpoint);
    let cases: [(Code, Spoil); 5] = [
        (Code::TensorMissing, |c| drop(c.remove("norm.weight"))),
        (Code::TensorUnexpected, |c| drop(c.insert("extra".into(), (vec![1], vec![0.0])))),
        (Code::TensorShape, |c| c.get_mut("norm.bias").unwrap().0 = vec![6, 6]),
        (Code::NotFinite, |c| c.get_mut("norm.bias").unwrap().1[3] = f32::NAN),
        (Code::NotFinite, |c| c.get_mut("pos_embed").unwrap().1[0] = f32::NEG_INFINITY),
    ];
    for (code, spoil) in cases {
        let mut spoiled = sound.clone();
        spoil(&mut spoiled);
        assert_eq!(checkpoint::check(&spoiled, &network(&config)).unwrap_err().code, code);
    }
}

#[test]
fn a_value_that_f16_cannot_hold_is_refused_not_stored_as_infinity() {
    let config = config();
    let network = network(&config);
    let mut weights = odd_model::checkpoint(&config);
    weights.get_mut("norm.bias").unwrap().1[0] = 1e6; // a vector: f32 in every variant
    store(&network, &mut weights, &Storing::plain(Dtype::F16)).unwrap();
    weights.get_mut("pos_embed").unwrap().1[0] = 1e6;
    store(&network, &mut weights, &Storing::plain(Dtype::Q8)).unwrap();
    assert_eq!(store(&network, &mut weights, &Storing::plain(Dtype::F16)).unwrap_err().code, Code::NotFinite);
}

/// Replaces a shard's bytes and makes the manifest believe them.
fn forge(folder: &Path, spoil: impl Fn(&mut BTreeMap<String, (safetensors::Dtype, Vec<usize>, Vec<u8>)>)) {
    let (manifest, _) = read_manifest(folder).unwrap();
    let mut manifest = manifest.write();
    let variant = &mut manifest["components"][DENOISER]["variants"][0];
    let path = folder.join(variant["shards"][0]["file"].as_str().unwrap());
    let bytes = std::fs::read(&path).unwrap();
    let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let mut tensors: BTreeMap<_, _> = file
        .tensors()
        .into_iter()
        .map(|(name, view)| (name, (view.dtype(), view.shape().to_vec(), view.data().to_vec())))
        .collect();
    spoil(&mut tensors);
    let views = tensors.iter().map(|(name, (dtype, shape, data))| {
        (name, safetensors::tensor::TensorView::new(*dtype, shape.clone(), data).unwrap())
    });
    let bytes = safetensors::serialize(views, None).unwrap();
    let hash: String = Sha256::digest(&bytes).iter().map(|b| format!("{b:02x}")).collect();
    variant["shards"][0]["sha256"] = hash.into();
    variant["shards"][0]["bytes"] = bytes.len().into();
    variant["bytes"] = bytes.len().into();
    std::fs::write(path, bytes).unwrap();
    std::fs::write(folder.join("manifest.json"), manifest.to_string()).unwrap();
}

#[test]
fn shards_that_do_not_hold_what_the_manifest_says_are_refused() {
    let out = fresh("shards");
    let manifest = convert(&out, Dtype::Q8, 0, 32 << 20).unwrap();
    let path = out.join(&manifest.variant(DENOISER, None).unwrap().shards[0].file);
    let sound = std::fs::read(&path).unwrap();
    let (mut flipped, mut longer) = (sound.clone(), sound.clone());
    flipped[sound.len() / 2] ^= 1;
    longer.push(0);
    for spoiled in [&flipped[..], &longer[..], &sound[..sound.len() - 1], &[]] {
        std::fs::write(&path, spoiled).unwrap();
        assert_eq!(load(&out).unwrap_err().code, Code::ShardCorrupt, "{} bytes", spoiled.len());
    }
    std::fs::remove_file(&path).unwrap();
    assert_eq!(load(&out).unwrap_err().code, Code::Io);

    type Spoil = fn(&mut BTreeMap<String, (safetensors::Dtype, Vec<usize>, Vec<u8>)>);
    let cases: [(Code, Spoil); 6] = [
        (Code::TensorMissing, |t| drop(t.remove("norm.bias"))),
        (Code::TensorMissing, |t| drop(t.remove("mid_block.attn.qkv.weight.scale"))),
        (Code::TensorUnexpected, |t| drop(t.insert("extra".into(), t["norm.bias"].clone()))),
        (Code::TensorShape, |t| t.get_mut("norm.bias").unwrap().1 = vec![4, 9]),
        (Code::NotFinite, |t| {
            t.get_mut("norm.bias").unwrap().2[..4].copy_from_slice(&f32::INFINITY.to_le_bytes());
        }),
        (Code::ShardCorrupt, |t| t.get_mut("mid_block.attn.qkv.weight").unwrap().2[5] = 0x80),
    ];
    for (code, spoil) in cases {
        std::fs::write(&path, &sound).unwrap();
        forge(&out, spoil);
        let error = load(&out).unwrap_err();
        assert_eq!(error.code, code, "{error}");
    }
}
