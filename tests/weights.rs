//! Files: checkpoints in, manifest and shards out and in again, and everything that can be wrong with them. Real files in
//! temporary folders; the `.pth` fixtures are PyTorch's own (`tests/weights/make_fixtures.py`).
#![cfg(feature = "cli")]

use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use uvit_web::Code;
use uvit_web::model::{Network, uvit};
use uvit_web::sampler::TorchGenerator;
use uvit_web::weights::checkpoint::{self, Checkpoint};
use uvit_web::weights::convert::{Storing, describe, store, write};
use uvit_web::weights::manifest::{Dtype, MAX_SHARD_BYTES, Manifest};
use uvit_web::weights::{ShardReader, Tensor, read_manifest, read_shards};

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests").join(name)
}

/// A path in a fresh folder of one test's own.
fn fresh(test: &str) -> PathBuf {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("weights-{test}"));
    let _ = std::fs::remove_dir_all(&folder);
    std::fs::create_dir_all(&folder).unwrap();
    folder.join("model")
}

/// A configuration with odd widths: groups of 32 and 64 end short, and q4 rows have an odd number of columns.
fn odd_config() -> Value {
    json!({
        "name": "odd", "img_size": 6, "patch_size": 3, "in_chans": 3, "embed_dim": 36, "depth": 2, "num_heads": 3,
        "mlp_ratio": 1.25, "qkv_bias": true, "mlp_time_embed": false, "num_classes": 4, "conv": true, "skip": true,
        "schedule": { "type": "vp_linear", "beta_min": 0.1, "beta_max": 20.0 }, "prediction": "noise",
        "time_scale": 999.0, "null_class": 3, "sampler": "dpmpp_2m", "steps": 5, "guidance_scale": 1.5
    })
}

fn network(config: &Value) -> Network {
    Network::Uvit(serde_json::from_value::<uvit::Config>(config.clone()).unwrap())
}

/// Random weights under the network's names and shapes.
fn random_checkpoint(config: &Value) -> Checkpoint {
    let mut random = TorchGenerator::new(1);
    let plan = network(config).record(uvit_web::model::Batch::plain(1)).unwrap().plan;
    let tensor = |w: &uvit_web::plan::Weight| (w.shape.clone(), random.randn_f32(w.shape.iter().product()));
    let names: Vec<String> = plan.weights.iter().map(|w| w.name.clone()).collect();
    names.into_iter().zip(plan.weights.iter().map(tensor)).collect()
}

/// Writes the odd model in one dtype.
fn convert(out: &Path, dtype: Dtype, group: usize, shard_bytes: usize) -> uvit_web::Result<Manifest> {
    let config = odd_config();
    let manifest = describe(&config.to_string(), None, None)?;
    let storing = Storing { group, ..Storing::plain(dtype) };
    let tensors = store(&manifest, &random_checkpoint(&config), &storing)?;
    write(manifest, &[(storing, tensors)], out, shard_bytes, false)
}

fn load(folder: &Path) -> uvit_web::Result<BTreeMap<String, Tensor>> {
    let (manifest, folder) = read_manifest(folder)?;
    let mut tensors = BTreeMap::new();
    read_shards(&folder, &mut ShardReader::new(&manifest, None)?, |tensor| {
        tensors.insert(tensor.name.clone(), tensor);
        Ok(())
    })?;
    Ok(tensors)
}

#[test]
fn every_dtype_comes_back_within_half_a_step_from_one_shard_and_from_many() {
    let want = random_checkpoint(&odd_config());
    for (dtype, group, step) in [
        (Dtype::F32, 0, 0.0),
        (Dtype::F16, 0, 1.0 / 1024.0),
        (Dtype::Q8, 0, 1.0 / 127.0),
        (Dtype::Q8, 64, 1.0 / 127.0),
        (Dtype::Q4, 32, 1.0 / 4.0),
    ] {
        let name = format!("round-trip-{}-{group}", dtype.as_str());
        let (one, many) = (fresh(&name), fresh(&format!("{name}-many")));
        assert_eq!(convert(&one, dtype, group, 32 << 20).unwrap().variants[0].shards.len(), 1);
        let split = convert(&many, dtype, group, 2000).unwrap();
        assert!(split.variants[0].shards.len() > 5);
        assert!(split.variants[0].shards.iter().all(|shard| shard.bytes <= 2000), "{:?}", split.variants[0].shards);
        let in_parts = split.variants[0].tensors.values().filter(|entry| entry.parts.len() > 1).count();
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
        (fixture("weights/code.pth"), "holds no tensors"),
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
    let config = odd_config();
    let sound = random_checkpoint(&config);
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
    let config = odd_config();
    let manifest = describe(&config.to_string(), None, None).unwrap();
    let mut weights = random_checkpoint(&config);
    weights.get_mut("norm.bias").unwrap().1[0] = 1e6; // a vector: f32 in every variant
    store(&manifest, &weights, &Storing::plain(Dtype::F16)).unwrap();
    weights.get_mut("pos_embed").unwrap().1[0] = 1e6;
    store(&manifest, &weights, &Storing::plain(Dtype::Q8)).unwrap();
    assert_eq!(store(&manifest, &weights, &Storing::plain(Dtype::F16)).unwrap_err().code, Code::NotFinite);
}

#[test]
fn a_manifest_that_contradicts_itself_is_refused() {
    let out = fresh("manifest");
    convert(&out, Dtype::Q8, 0, 32 << 20).unwrap();
    let sound: Value = serde_json::from_str(&std::fs::read_to_string(out.join("manifest.json")).unwrap()).unwrap();
    Manifest::parse(&sound.to_string()).unwrap();
    let label = |index: u32, name: &str| json!({ "index": index, "name": name });
    let twice = json!([sound["variants"][0], sound["variants"][0]]);
    let shard = &sound["variants"][0]["shards"][0];
    for (pointer, value, code, cause) in [
        ("/format_version", json!(2), Code::UnsupportedVersion, "version 2"),
        ("/format_version", json!("1"), Code::BadManifest, "format_version"),
        ("/architecture", json!("dit"), Code::UnsupportedModel, "dit"),
        ("/variants", json!([]), Code::BadManifest, "no variants"),
        ("/variants", twice, Code::BadManifest, "two variants"),
        ("/labels", json!([label(4, "a")]), Code::BadManifest, "index 4"),
        ("/labels", json!([label(0, "a"), label(1, "a")]), Code::BadManifest, "two labels"),
        ("/null_class", json!(4), Code::BadManifest, "null_class"),
        ("/sampling/steps", json!(0), Code::BadManifest, "steps is 0"),
        ("/sampling/steps", json!(100_000), Code::BadManifest, "steps is 100000"),
        ("/sampling/t_min", json!(1.0), Code::BadManifest, "t_min"),
        ("/sampling/time_scale", json!(-1.0), Code::BadManifest, "time_scale"),
        ("/sampling/schedule/beta_max", json!(0.01), Code::BadManifest, "beta"),
        ("/sampling/prediction", json!("score"), Code::BadManifest, "score"),
        ("/variants/0/bytes", json!(1), Code::BadManifest, "it says 1"),
        ("/variants/0/shards/0/file", json!("../q8.safetensors"), Code::BadManifest, "plain file name"),
        ("/variants/0/shards/0/bytes", json!(MAX_SHARD_BYTES + 1), Code::BadManifest, "at most"),
        ("/variants/0/shards/0/sha256", json!("12"), Code::BadManifest, "SHA-256"),
        ("/variants/0/shards", json!([shard, shard]), Code::BadManifest, "twice"),
        ("/variants/0/tensors/norm.bias/shape", json!([0]), Code::BadManifest, "norm.bias"),
        (
            "/variants/0/tensors/norm.bias/shape",
            json!([4_294_967_295u64, 4_294_967_295u64]),
            Code::BadManifest,
            "large",
        ),
        ("/variants/0/tensors/norm.bias/group", json!(32), Code::BadManifest, "group"),
        ("/variants/0/tensors/norm.bias/dtype", json!("q8"), Code::BadManifest, "two axes"),
        ("/variants/0/tensors/norm.bias/parts/0/shard", json!(1), Code::BadManifest, "no shard 1"),
        ("/variants/0/tensors/norm.bias/parts/0/rows", json!([0, 35]), Code::BadManifest, "35 rows"),
        ("/variants/0/tensors/norm.bias/parts", json!([]), Code::BadManifest, "0 rows"),
    ] {
        let mut spoiled = sound.clone();
        let (parent, key) = pointer.rsplit_once('/').unwrap();
        match spoiled.pointer_mut(parent).unwrap() {
            Value::Array(list) => list[key.parse::<usize>().unwrap()] = value,
            object => object[key] = value,
        }
        let error = Manifest::parse(&spoiled.to_string()).unwrap_err();
        assert_eq!(error.code, code, "{pointer}: {error}");
        assert!(error.cause.contains(cause), "{pointer}: {error}");
    }
    assert_eq!(Manifest::parse("<html>").unwrap_err().code, Code::BadManifest);
}

#[test]
fn a_manifest_for_another_network_is_refused_before_any_shard_is_read() {
    let out = fresh("network");
    let sound = serde_json::to_value(convert(&out, Dtype::F32, 0, 32 << 20).unwrap()).unwrap();
    let wrong = |pointer: &str, value: Value| {
        let mut spoiled = sound.clone();
        *spoiled.pointer_mut(pointer).unwrap() = value;
        Manifest::parse(&spoiled.to_string()).and_then(|manifest| ShardReader::new(&manifest, None).map(|_| ()))
    };
    assert_eq!(wrong("/params/depth", json!(4)).unwrap_err().code, Code::TensorMissing);
    assert_eq!(wrong("/params/conv", json!(false)).unwrap_err().code, Code::TensorUnexpected);
    assert_eq!(wrong("/params/num_classes", json!(9)).unwrap_err().code, Code::TensorShape);
    for (pointer, value) in [
        ("/params/num_heads", json!(5)),
        ("/params/patch_size", json!(4)),
        ("/params/embed_dim", json!(4_000_000_000u32)),
        ("/params/depth", json!(1_000_000)),
        ("/params/img_size", json!(3_000)),
        ("/params/mlp_ratio", json!(1e9)),
    ] {
        assert_eq!(wrong(pointer, value).unwrap_err().code, Code::UnsupportedModel, "{pointer}");
    }
}

/// Replaces a shard's bytes and makes the manifest believe them.
fn forge(folder: &Path, spoil: impl Fn(&mut BTreeMap<String, (safetensors::Dtype, Vec<usize>, Vec<u8>)>)) {
    let (manifest, _) = read_manifest(folder).unwrap();
    let mut manifest = serde_json::to_value(manifest).unwrap();
    let path = folder.join(manifest["variants"][0]["shards"][0]["file"].as_str().unwrap());
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
    manifest["variants"][0]["shards"][0]["sha256"] = hash.into();
    manifest["variants"][0]["shards"][0]["bytes"] = bytes.len().into();
    manifest["variants"][0]["bytes"] = bytes.len().into();
    std::fs::write(path, bytes).unwrap();
    std::fs::write(folder.join("manifest.json"), manifest.to_string()).unwrap();
}

#[test]
fn shards_that_do_not_hold_what_the_manifest_says_are_refused() {
    let out = fresh("shards");
    convert(&out, Dtype::Q8, 0, 32 << 20).unwrap();
    let path = out.join("q8-00001.safetensors");
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

/// Names of everything in a folder, hidden files included.
fn listing(folder: &Path) -> Vec<String> {
    let mut names: Vec<String> =
        std::fs::read_dir(folder).unwrap().map(|e| e.unwrap().file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

#[test]
fn converting_replaces_only_models_and_leaves_nothing_half_written() {
    let out = fresh("force");
    let parent = out.parent().unwrap().to_owned();
    let config = parent.join("config.json");
    let mut golden: Value =
        serde_json::from_slice(&std::fs::read(fixture("goldens/uvit_small_activations/config.json")).unwrap()).unwrap();
    let mut odd = odd_config();
    odd.as_object_mut().unwrap().extend(golden["params"].as_object_mut().unwrap().clone());
    odd.as_object_mut().unwrap().remove("null_class");
    odd["guidance_scale"] = json!(1.0);
    std::fs::write(&config, odd.to_string()).unwrap();
    let run = |more: &[&str]| {
        let output = Command::new(env!("CARGO_BIN_EXE_uvit"))
            .args(["convert", fixture("weights/tiny.pth").to_str().unwrap(), "--config", config.to_str().unwrap()])
            .args(["--dtype", "f16", "--out"])
            .args(more)
            .output()
            .unwrap();
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let model = out.to_str().unwrap();
    assert_eq!(run(&[model]).0, Some(0));
    assert_eq!(listing(&out), ["f16-00001.safetensors", "manifest.json"]);
    assert_eq!(load(&out).unwrap().len(), checkpoint::read(&fixture("weights/tiny.pth")).unwrap().len());

    // A model is replaced when asked to, not otherwise.
    let before = std::fs::read(out.join("manifest.json")).unwrap();
    let (status, said) = run(&[model]);
    assert!(status == Some(2) && said.contains("--force"), "{said}");
    assert_eq!(run(&[model, "--force", "--dtype", "f32"]).0, Some(0));
    assert_ne!(std::fs::read(out.join("manifest.json")).unwrap(), before);
    assert_eq!(listing(&out), ["f16-00001.safetensors", "f32-00001.safetensors", "manifest.json"]);

    // A folder with anything else in it never is.
    std::fs::write(out.join("thesis.txt"), "irreplaceable").unwrap();
    let (status, said) = run(&[model, "--force"]);
    assert!(status == Some(2) && said.contains("thesis.txt"), "{said}");
    assert!(out.join("thesis.txt").exists());

    // Whatever fails on the way leaves what was there, and nothing beside it.
    let elsewhere = parent.join("elsewhere");
    for (key, value) in [("depth", json!(3)), ("embed_dim", json!(33)), ("steps", json!(0)), ("prediction", json!(1))] {
        let mut spoiled = odd.clone();
        spoiled[key] = value;
        std::fs::write(&config, spoiled.to_string()).unwrap();
        let (status, said) = run(&[elsewhere.to_str().unwrap()]);
        assert!(matches!(status, Some(2 | 3)) && said.contains("remedy"), "{key}: {status:?} {said}");
        assert_eq!(listing(&parent), ["config.json", "model"], "{key}");
    }
}
