//! The manifest in both of its versions, everything that can be wrong with it, and the model hash.
#![cfg(feature = "cli")]

mod odd_model;

use odd_model::{convert, fresh};
use serde_json::{Value, json};
use std::path::Path;
use uvit_web::Code;
use uvit_web::package::{
    Component, DENOISER, MANIFEST, Manifest, Storing, Task, Writer, read_asset, read_manifest, reader, write_manifest,
};
use uvit_web::weights::{Dtype, MAX_FILE_BYTES};

fn json_of(folder: &Path) -> Value {
    serde_json::from_str(&std::fs::read_to_string(folder.join(MANIFEST)).unwrap()).unwrap()
}

/// The manifest with one value changed, or added to an object.
fn with(manifest: &Value, pointer: &str, value: Value) -> Value {
    let mut changed = manifest.clone();
    let (parent, key) = pointer.rsplit_once('/').unwrap();
    match changed.pointer_mut(parent).unwrap_or_else(|| panic!("{pointer}")) {
        Value::Array(list) => list[key.parse::<usize>().unwrap()] = value,
        object => object[key] = value,
    }
    changed
}

fn parse(manifest: &Value) -> uvit_web::Result<Manifest> {
    Manifest::parse(&manifest.to_string())
}

fn embedded() -> Value {
    json_of(&Path::new(env!("CARGO_MANIFEST_DIR")).join("web/models/emoji"))
}

/// As version 1 was: what is the denoiser's now stood at the top.
fn version1(manifest: &Value) -> Value {
    let mut old = manifest.clone();
    let fields = old.as_object_mut().unwrap();
    let denoiser = fields.remove("components").unwrap()[DENOISER].clone();
    fields.extend(denoiser.as_object().unwrap().clone());
    fields.remove("task");
    fields.remove("assets");
    fields.insert("format_version".into(), json!(1));
    old
}

#[test]
fn a_manifest_that_contradicts_itself_is_refused() {
    let out = fresh("manifest");
    convert(&out, Dtype::Q8, 0, 32 << 20).unwrap();
    let sound = json_of(&out);
    parse(&sound).unwrap();
    parse(&version1(&sound)).unwrap();
    let label = |index: u32, name: &str| json!({ "index": index, "name": name });
    let variants = &sound["components"][DENOISER]["variants"];
    let twice = json!([variants[0], variants[0]]);
    let shard = &variants[0]["shards"][0];
    for (pointer, value, code, cause) in [
        ("/format_version", json!(3), Code::UnsupportedVersion, "version 3"),
        ("/format_version", json!("1"), Code::BadManifest, "format_version"),
        ("/format_version", json!(-1), Code::BadManifest, "format_version"),
        ("/format_version", json!(1.5), Code::BadManifest, "format_version"),
        ("/labels", json!([label(4, "a")]), Code::BadManifest, "index 4"),
        (
            "/labels",
            json!([label(0, "a"), label(1, "a")]),
            Code::BadManifest,
            "several labels are called \"a\", those of index [0, 1]",
        ),
        ("/null_class", json!(4), Code::BadManifest, "null_class"),
        ("/sampling/steps", json!(0), Code::BadManifest, "steps is 0"),
        ("/sampling/steps", json!(100_000), Code::BadManifest, "steps is 100000"),
        ("/sampling/t_min", json!(1.0), Code::BadManifest, "t_min"),
        ("/sampling/time_scale", json!(-1.0), Code::BadManifest, "time_scale"),
        ("/sampling/time_offset", json!("late"), Code::BadManifest, "time_offset: \"late\" is no number"),
        ("/sampling/grid", json!("respaced"), Code::BadManifest, "no discrete training steps"),
        ("/sampling/grid", json!("woven"), Code::BadManifest, "there is no grid \"woven\""),
        ("/sampling/guided_channels", json!(0), Code::BadManifest, "guided_channels is 0"),
        ("/sampling/guided_channels", json!(4), Code::BadManifest, "guided_channels is 4, the network has 3 channels"),
        ("/sampling/schedule/beta_max", json!(0.01), Code::BadManifest, "beta"),
        ("/sampling/prediction", json!("score"), Code::BadManifest, "score"),
        ("/sampling/cache", json!({ "outer": 1, "steps": 5, "refresh": [0, 2, 2] }), Code::BadManifest, "refresh"),
        ("/sampling/cache", json!({ "outer": 1, "steps": 5, "refresh": [0, 5] }), Code::BadManifest, "refresh"),
        ("/sampling/cache", json!({ "outer": 1, "steps": 5, "refresh": [] }), Code::BadManifest, "refresh"),
    ] {
        for manifest in [with(&sound, pointer, value.clone()), with(&version1(&sound), pointer, value)] {
            let error = parse(&manifest).unwrap_err();
            assert_eq!(error.code, code, "{pointer}: {error}");
            assert!(error.cause.contains(cause), "{pointer}: {error}");
        }
    }
    for (pointer, value, code, cause) in [
        (
            "/architecture",
            json!("pixart"),
            Code::UnsupportedModel,
            "component denoiser: the architecture is \"pixart\", this build knows uvit",
        ),
        ("/architecture", json!(1), Code::BadManifest, "architecture: 1 is no text"),
        ("/params", json!({}), Code::BadManifest, "component denoiser: the parameters of uvit: img_size is missing"),
        ("/params/depth", json!("12"), Code::BadManifest, "depth: \"12\" is no whole number"),
        ("/params/depth", json!(1e300), Code::BadManifest, "is no whole number"),
        ("/variants", json!([]), Code::BadManifest, "component denoiser: it has no variants"),
        ("/variants", twice, Code::BadManifest, "two variants are q8"),
        ("/variants/0/bytes", json!(1), Code::BadManifest, "it says 1"),
        ("/variants/0/bytes", json!(u64::MAX), Code::BadManifest, "it says 18446744073709551615"),
        ("/variants/0/shards/0/file", json!("../q8.safetensors"), Code::BadManifest, "plain file name"),
        ("/variants/0/shards/0/file", json!("a/q8.safetensors"), Code::BadManifest, "plain file name"),
        ("/variants/0/shards/0/file", json!("Manifest.json"), Code::BadManifest, "used twice"),
        ("/variants/0/shards/0/bytes", json!(MAX_FILE_BYTES + 1), Code::BadManifest, "at most"),
        ("/variants/0/shards/0/bytes", json!(-1), Code::BadManifest, "bytes: -1 is no whole number"),
        ("/variants/0/shards/0/sha256", json!("12"), Code::BadManifest, "SHA-256"),
        ("/variants/0/shards", json!([shard, shard]), Code::BadManifest, "it says"),
        ("/variants/0/tensors/norm.bias/shape", json!([0]), Code::BadManifest, "norm.bias"),
        ("/variants/0/tensors/norm.bias/shape", json!([1u64 << 32, 1u64 << 32]), Code::BadManifest, "too large"),
        ("/variants/0/tensors/norm.bias/shape", json!([1 << 28]), Code::BadManifest, "36 rows"),
        ("/variants/0/tensors/norm.bias/group", json!(32), Code::BadManifest, "group"),
        ("/variants/0/tensors/norm.bias/dtype", json!("q8"), Code::BadManifest, "two axes"),
        ("/variants/0/tensors/norm.bias/parts/0/shard", json!(1), Code::BadManifest, "no shard 1"),
        ("/variants/0/tensors/norm.bias/parts/0/rows", json!([0, 35]), Code::BadManifest, "35 rows"),
        ("/variants/0/tensors/norm.bias/parts/0/rows", json!([0, u64::MAX]), Code::BadManifest, "rows"),
        ("/variants/0/tensors/norm.bias/parts", json!([]), Code::BadManifest, "0 rows"),
        (
            "/variants/0/tensors/huge",
            json!({ "shape": [1 << 28], "dtype": "f32", "parts": [{ "shard": 0, "rows": [0, 1 << 28] }] }),
            Code::BadManifest,
            "its tensors take 10737",
        ),
    ] {
        let new = with(&sound, &format!("/components/{DENOISER}{pointer}"), value.clone());
        for manifest in [new, with(&version1(&sound), pointer, value)] {
            let error = parse(&manifest).unwrap_err();
            assert_eq!(error.code, code, "{pointer}: {error}");
            assert!(error.cause.contains(cause), "{pointer}: {error}");
        }
    }
    let channels = sound["components"][DENOISER]["params"]["in_chans"].as_u64().unwrap() as usize;
    let preview = |rows: Vec<Value>, bias: Value| {
        with(&sound, "/preview", json!({ "latent_rgb_factors": rows, "latent_rgb_factors_bias": bias }))
    };
    let rows = |row: Value| vec![row; channels];
    let (row, bias) = (json!([0.1, -0.2, 3]), json!([0, 0, 0.5]));
    let sound_preview = preview(rows(row.clone()), bias.clone());
    let read = parse(&sound_preview).unwrap();
    assert_eq!(read.preview.as_ref().map(|preview| preview.latent_rgb_factors_bias), Some([0.0, 0.0, 0.5]));
    assert_eq!(parse(&serde_json::from_str(&read.to_json()).unwrap()).unwrap(), read);
    assert_eq!(
        parse(&preview(rows(row.clone()), json!(null))).unwrap().preview.unwrap().latent_rgb_factors_bias,
        [0.0; 3]
    );
    let one_more = [rows(row.clone()), rows(row.clone())[..1].to_vec()].concat();
    for (manifest, cause) in [
        (preview(one_more, bias.clone()), format!("has {} rows, and what is drawn {channels} channels", channels + 1)),
        (preview(vec![], bias.clone()), format!("has 0 rows, and what is drawn {channels} channels")),
        (preview(rows(json!([0.1, 0.2])), bias.clone()), "preview: [0.1,0.2] is no colour: red, green and blue".into()),
        (preview(rows(json!([0.1, 0.2, "NaN"])), bias.clone()), "[2]: \"NaN\" is no number".into()),
        (preview(rows(json!([0.1, 0.2, f64::NAN])), bias.clone()), "[2]: null is no number".into()),
        (preview(rows(json!([0.1, 0.2, 1e39])), bias.clone()), "preview: a number is too large".into()),
        (preview(rows(row.clone()), json!([0, 0, -1e300])), "preview: a number is too large".into()),
        (preview(rows(row.clone()), json!(0)), "preview: 0 is no list".into()),
        (with(&sound, "/preview", json!({})), "preview: latent_rgb_factors is no list".into()),
        (with(&sound, "/preview", json!([])), "preview: [] is no object".into()),
    ] {
        let error = parse(&manifest).unwrap_err();
        assert!(error.code == Code::BadManifest && error.cause.contains(&cause), "{cause}: {error}");
    }
    // What no JSON has.
    for number in ["NaN", "Infinity", "1e999"] {
        let text = sound_preview.to_string().replace("-0.2", number);
        assert_eq!(Manifest::parse(&text).unwrap_err().code, Code::BadManifest, "{number}");
    }
    for text in ["<html>", "", "[]", "null", "{}", &"[".repeat(100_000)] {
        assert_eq!(Manifest::parse(text).unwrap_err().code, Code::BadManifest);
    }
}

#[test]
fn components_and_assets_are_those_that_the_task_needs_under_plain_names_and_in_files_of_their_own() {
    let out = fresh("components");
    convert(&out, Dtype::Q8, 0, 32 << 20).unwrap();
    let sound = json_of(&out);
    let denoiser = &sound["components"][DENOISER];
    let other_files = |mut component: Value, file: &str| {
        component["variants"][0]["shards"][0]["file"] = file.into();
        component
    };
    let asset = |file: &str| json!({ "file": file, "bytes": 5, "sha256": "0".repeat(64) });
    let taken = denoiser["variants"][0]["shards"][0]["file"].as_str().unwrap().to_uppercase();
    for (pointer, value, code, cause) in [
        ("/components", json!({}), Code::BadManifest, "lacks components that task \"class\" needs: denoiser"),
        ("/components", json!(null), Code::BadManifest, "components is missing"),
        ("/components/text_encoder", json!({}), Code::BadManifest, "text_encoder: architecture is missing"),
        ("/components/upscaler", denoiser.clone(), Code::BadManifest, "used twice"),
        ("/components/decoder", denoiser.clone(), Code::UnsupportedModel, "uvit has no ports z and decoded"),
        ("/components/Text Encoder", other_files(denoiser.clone(), "a"), Code::BadManifest, "no name"),
        ("/task", json!("text"), Code::BadManifest, "needs: text_encoder"),
        ("/task", json!("any"), Code::BadManifest, "needs: text_encoder, text_projector"),
        ("/task", json!("dance"), Code::UnsupportedModel, "the task is \"dance\", this build knows class, text, any"),
        ("/task", json!(7), Code::UnsupportedModel, "the task is 7"),
        ("/assets/tokenizer", asset("vocabulary/merges.txt"), Code::BadManifest, "plain file name"),
        ("/assets/tokenizer", asset("..\\merges.txt"), Code::BadManifest, "plain file name"),
        ("/assets/tokenizer", asset(".merges"), Code::BadManifest, "plain file name"),
        ("/assets/tokenizer", asset(""), Code::BadManifest, "plain file name"),
        ("/assets/tokenizer", asset(&"m".repeat(256)), Code::BadManifest, "plain file name"),
        ("/assets/tokenizer", asset(&taken), Code::BadManifest, "used twice"),
        ("/assets/tokenizer", asset(MANIFEST), Code::BadManifest, "used twice"),
        ("/assets/../x", asset("merges.txt"), Code::BadManifest, "file is missing"),
        (
            "/assets/tokenizer",
            json!({ "file": "m", "bytes": u64::MAX, "sha256": "0".repeat(64) }),
            Code::BadManifest,
            "at most",
        ),
        ("/assets/tokenizer", json!({ "file": "m", "bytes": 1, "sha256": "g".repeat(64) }), Code::BadManifest, "64"),
    ] {
        let mut base = sound.clone();
        if pointer == "/assets/../x" {
            base["assets"] = json!({ "..": {} });
        }
        let error = parse(&with(&base, pointer, value)).unwrap_err();
        assert_eq!(error.code, code, "{pointer}: {error}");
        assert!(error.cause.contains(cause), "{pointer}: {error}");
    }
    let mut without_task = sound.clone();
    without_task.as_object_mut().unwrap().remove("task");
    assert!(parse(&without_task).unwrap_err().cause.contains("task"));

    // Of what the task has a use for, the architecture must be known; of what it has none, only the form.
    let strange = with(&other_files(denoiser.clone(), "a"), "/architecture", json!("vae"));
    let error = parse(&with(&sound, "/components/decoder", strange.clone())).unwrap_err();
    assert_eq!(error.code, Code::UnsupportedModel, "{error}");
    assert!(error.cause.contains("component decoder") && error.cause.contains("\"vae\""), "{error}");
    let words = json!({
        "vocab_size": 9, "hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1,
        "max_position_embeddings": 3,
    });
    let blind = with(&with(denoiser, "/architecture", json!("clip_text")), "/params", words);
    let error = parse(&with(&sound, "/components/denoiser", blind)).unwrap_err();
    assert_eq!(error.code, Code::UnsupportedModel, "{error}");
    assert!(error.cause.contains("component denoiser: clip_text draws no pictures"), "{error}");
    let extra = parse(&with(&sound, "/components/upscaler", strange.clone())).unwrap();
    assert_eq!(extra.unused().collect::<Vec<_>>(), ["upscaler"]);
    let error = parse(&with(&sound, "/components/upscaler", with(&strange, "/variants", json!([])))).unwrap_err();
    assert!(error.cause.contains("component upscaler: it has no variants"), "{error}");

    // A task whose components are all there is read, and refused by what cannot do it.
    let both = with(&with(&sound, "/task", json!("video")), "/labels", json!([]));
    let video = parse(&both).unwrap();
    assert_eq!(video.task, Task::Video);
    assert_eq!(video.check_task().unwrap_err().code, Code::UnsupportedModel);
    parse(&sound).unwrap().check_task().unwrap();
}

#[test]
fn a_manifest_for_another_network_is_refused_before_any_shard_is_read() {
    let out = fresh("network");
    convert(&out, Dtype::F32, 0, 32 << 20).unwrap();
    let sound = json_of(&out);
    let wrong = |pointer: &str, value: Value| {
        let spoiled = with(&sound, &format!("/components/{DENOISER}/params/{pointer}"), value);
        parse(&spoiled).and_then(|manifest| reader(&manifest, DENOISER, None).map(|_| ()))
    };
    assert_eq!(wrong("depth", json!(4)).unwrap_err().code, Code::TensorMissing);
    assert_eq!(wrong("conv", json!(false)).unwrap_err().code, Code::TensorUnexpected);
    assert_eq!(wrong("num_classes", json!(9)).unwrap_err().code, Code::TensorShape);
    for (name, value) in [
        ("num_heads", json!(5)),
        ("patch_size", json!(4)),
        ("embed_dim", json!(4_000_000_000u32)),
        ("depth", json!(1_000_000)),
        ("img_size", json!(3_000)),
        ("mlp_ratio", json!(1e9)),
    ] {
        assert_eq!(wrong(name, value).unwrap_err().code, Code::UnsupportedModel, "{name}");
    }
}

/// Every value of the manifest in turn, the names of fields aside, and what anybody might write there.
#[test]
fn whatever_stands_in_a_manifest_is_read_or_refused_but_never_a_panic() {
    fn pointers(value: &Value, at: String, found: &mut Vec<String>) {
        match value {
            Value::Object(fields) => fields.iter().for_each(|(key, v)| pointers(v, format!("{at}/{key}"), found)),
            Value::Array(list) => list.iter().enumerate().for_each(|(i, v)| pointers(v, format!("{at}/{i}"), found)),
            _ => {}
        }
        found.push(at);
    }
    let out = fresh("anything");
    convert(&out, Dtype::Q4, 32, 8000).unwrap();
    let mut sound = json_of(&out);
    sound["labels"] = json!([{ "index": 0, "name": "a" }]);
    sound["sampling"]["cache"] = json!({ "outer": 1, "steps": 5, "refresh": [0, 2] });
    sound["assets"] = json!({ "tokenizer": { "file": "m", "bytes": 1, "sha256": "0".repeat(64) } });
    let mut found = Vec::new();
    pointers(&sound, String::new(), &mut found);
    assert!(found.len() > 300);
    let anything = [
        json!(null),
        json!(true),
        json!(0),
        json!(-1),
        json!(4),
        json!(0.5),
        json!(u32::MAX),
        json!(u64::MAX),
        json!(1e300),
        json!(""),
        json!("\u{0}/../"),
        json!([]),
        json!({}),
        json!([0, u64::MAX]),
    ];
    let mut read = 0;
    for pointer in found.iter().filter(|pointer| !pointer.is_empty()) {
        for value in &anything {
            let Ok(manifest) = parse(&with(&sound, pointer, value.clone())) else { continue };
            let _ = reader(&manifest, DENOISER, None);
            manifest.model_hash(None).unwrap();
            assert_eq!(Manifest::parse(&manifest.to_json()).unwrap(), manifest, "{pointer} {value}");
            read += 1;
        }
    }
    assert!(read > 50, "{read}");
}

#[test]
fn a_dtype_is_taken_where_it_is_stored_and_elsewhere_the_default_one() {
    let out = fresh("dtypes");
    convert(&out, Dtype::Q8, 0, 32 << 20).unwrap();
    let mut manifest = read_manifest(&out).unwrap().0;
    let mut upscaler = manifest.component(DENOISER).unwrap().clone();
    upscaler.variants[0].dtype = Dtype::F16;
    manifest.components.insert("upscaler", upscaler);
    let dtype = |name: &str, asked| manifest.variant(name, asked).map(|variant| variant.dtype);
    assert_eq!(dtype(DENOISER, None), Ok(Dtype::Q8));
    assert_eq!(dtype(DENOISER, Some(Dtype::F16)), Ok(Dtype::Q8));
    assert_eq!(dtype("upscaler", Some(Dtype::Q8)), Ok(Dtype::F16));
    let error = dtype(DENOISER, Some(Dtype::Q4)).unwrap_err();
    assert_eq!(error.code, Code::InvalidArgument);
    assert!(error.cause.contains("q4") && error.remedy.contains("q8, f16"), "{error}");
    assert_eq!(dtype("downscaler", None).unwrap_err().code, Code::BadManifest);
}

#[test]
fn version_1_is_the_same_model_as_its_version_2_and_has_the_same_hash() {
    let old = embedded();
    assert_eq!(old["format_version"], 1);
    let read = parse(&old).unwrap();
    let new: Value = serde_json::from_str(&read.to_json()).unwrap();
    assert_eq!((&new["format_version"], &new["task"]), (&json!(2), &json!("class")));
    assert_eq!(new["components"][DENOISER]["variants"], old["variants"]);
    assert_eq!(parse(&new).unwrap(), read);
    // Worked out apart from this code, as docs/format.md says: pictures that carry it must not lose their model.
    for (dtype, hash) in [
        (None, "6cb82aacd7cd684f72cf71a6f266fb45fcfe164ddbe4cdd3492ca2cee092a53c"),
        (Some(Dtype::Q8), "6cb82aacd7cd684f72cf71a6f266fb45fcfe164ddbe4cdd3492ca2cee092a53c"),
        (Some(Dtype::Q4), "88a2dee49a458ff23d007f6837847810ce8672c9c07fc3aa6638353e99e8bdef"),
    ] {
        assert_eq!(read.model_hash(dtype).unwrap(), hash);
        assert_eq!(parse(&new).unwrap().model_hash(dtype).unwrap(), hash);
    }

    // `uvit upgrade` writes it so, beside shards of any name.
    let folder = fresh("upgrade");
    std::fs::create_dir(&folder).unwrap();
    std::fs::write(folder.join(MANIFEST), old.to_string()).unwrap();
    let run = std::process::Command::new(env!("CARGO_BIN_EXE_uvit")).arg("upgrade").arg(&folder).output().unwrap();
    assert!(run.status.success(), "{run:?}");
    assert_eq!(json_of(&folder), new);
    assert_eq!(odd_model::listing(&folder), [MANIFEST]);
}

#[test]
fn the_hash_covers_what_decides_a_picture_and_nothing_else() {
    let sound: Value = serde_json::from_str(&parse(&embedded()).unwrap().to_json()).unwrap();
    let hash = |manifest: &Value| parse(manifest).unwrap().model_hash(None).unwrap();
    let same = hash(&sound);
    let asset = |file: &str, digit: &str| json!({ "file": file, "bytes": 1, "sha256": digit.repeat(64) });
    let variant = format!("/components/{DENOISER}/variants/0");
    let network = format!("/components/{DENOISER}/params");
    let upper = sound.pointer(&format!("{variant}/shards/0/sha256")).unwrap().as_str().unwrap().to_uppercase();
    for (pointer, value) in [
        ("/name".to_owned(), json!("smileys")),
        ("/labels/0/name".to_owned(), json!("Lächeln")),
        ("/labels".to_owned(), json!([])),
        ("/licences".to_owned(), json!([])),
        ("/preview".to_owned(), json!({ "latent_rgb_factors": [[1, 0, 0], [0, 1, 0], [0, 0, 1]] })),
        (format!("{network}/mlp_ratio"), json!(4)),
        (format!("{network}/comment"), json!("a field that the network ignores")),
        ("/sampling/t_max".to_owned(), json!(1)),
        ("/sampling/time_offset".to_owned(), json!(0)),
        ("/sampling/grid".to_owned(), json!(null)),
        ("/sampling/guided_channels".to_owned(), json!(null)),
        (format!("{variant}/shards/0/file"), json!("renamed.safetensors")),
        (format!("{variant}/shards/0/sha256"), json!(upper)),
        (format!("/components/{DENOISER}/variants/1/shards/0/sha256"), json!("0".repeat(64))),
    ] {
        assert_eq!(hash(&with(&sound, &pointer, value)), same, "{pointer}");
    }
    let mut seen = vec![same];
    for (pointer, value) in [
        (format!("{network}/num_heads"), json!(2)),
        ("/sampling/cache/outer".to_owned(), json!(2)),
        ("/sampling/cache/refresh".to_owned(), json!([0, 3])),
        ("/sampling/cache".to_owned(), json!(null)),
        ("/sampling/steps".to_owned(), json!(20)),
        ("/sampling/time_offset".to_owned(), json!(-1)),
        ("/sampling/grid".to_owned(), json!("log_snr")),
        ("/sampling/guided_channels".to_owned(), json!(2)),
        ("/sampling/schedule/beta_max".to_owned(), json!(19.5)),
        ("/sampling/prediction".to_owned(), json!("v")),
        ("/null_class".to_owned(), json!(29)),
        ("/null_class".to_owned(), json!(null)),
        ("/task".to_owned(), json!("video")),
        (format!("{variant}/shards/0/sha256"), json!("0".repeat(64))),
        ("/assets/tokenizer".to_owned(), asset("merges.txt", "0")),
        ("/assets/tokenizer".to_owned(), asset("merges.txt", "1")),
        ("/assets/vocabulary".to_owned(), asset("merges.txt", "1")),
    ] {
        let other = hash(&with(&sound, &pointer, value));
        assert!(!seen.contains(&other), "{pointer}");
        seen.push(other);
    }
}

#[test]
fn an_asset_is_handed_out_only_if_it_is_the_one_that_the_manifest_means() {
    let out = fresh("asset");
    let config = odd_model::config();
    let network = odd_model::network(&config);
    let storing = Storing::plain(Dtype::F32);
    let mut tensors = odd_model::checkpoint(&config);
    let mut manifest = uvit_web::package::describe(&config.to_string(), None, None).unwrap();
    let mut writer = Writer::new(&out, &[], false).unwrap();
    assert_eq!(writer.add(&mut manifest, "upscaler", &storing, &mut tensors).unwrap_err().code, Code::BadManifest);
    manifest.components.insert("upscaler", Component::new(&network));
    writer.add(&mut manifest, "upscaler", &storing, &mut tensors).unwrap();
    writer.add(&mut manifest, DENOISER, &storing, &mut tensors).unwrap();
    writer.add_asset(&mut manifest, "tokenizer", "txt", b"t h\nth e\n").unwrap();
    writer.finish(&manifest).unwrap();

    let (read, folder) = read_manifest(&out).unwrap();
    assert_eq!(read, manifest);
    let shard = |name: &str| read.variant(name, None).unwrap().shards[0].clone();
    let file = |name: &str| format!("{name}-f32-00001-{}.safetensors", &shard(name).sha256[..8]);
    assert_eq!(shard(DENOISER).file, file(DENOISER));
    assert_eq!(shard("upscaler").file, file("upscaler"));
    let asset = read.asset("tokenizer").unwrap();
    assert_eq!(asset.file, format!("tokenizer-{}.txt", &asset.sha256[..8]));
    assert_eq!(read_asset(&folder, &read, "tokenizer").unwrap(), b"t h\nth e\n");
    assert_eq!(read_asset(&folder, &read, "merges").unwrap_err().code, Code::BadManifest);

    let path = folder.join(&asset.file);
    for spoiled in [&b"t h\nth a\n"[..], b"t h\n", b""] {
        std::fs::write(&path, spoiled).unwrap();
        let error = read_asset(&folder, &read, "tokenizer").unwrap_err();
        assert_eq!(error.code, Code::ShardCorrupt);
        assert!(error.cause.contains("asset tokenizer") && error.cause.contains(&asset.file), "{error}");
    }
    std::fs::remove_file(path).unwrap();
    assert_eq!(read_asset(&folder, &read, "tokenizer").unwrap_err().code, Code::Io);

    // What does not parse is not written over what does.
    let mut broken = read.clone();
    broken.components = Default::default();
    assert_eq!(write_manifest(&out, &broken).unwrap_err().code, Code::BadManifest);
    assert_eq!(read_manifest(&out).unwrap().0, read);
}

#[test]
fn the_tool_shows_what_a_model_holds_and_draws_only_what_it_can() {
    let folder = fresh("tool");
    convert(&folder, Dtype::Q8, 0, 32 << 20).unwrap();
    let sound = json_of(&folder);
    let run = |command: &str, manifest: &Value, more: &[&str]| {
        std::fs::write(folder.join(MANIFEST), manifest.to_string()).unwrap();
        let tool = std::process::Command::new(env!("CARGO_BIN_EXE_uvit")).arg(command).arg(&folder).args(more).output();
        let output = tool.unwrap();
        let said = [output.stdout, output.stderr].concat();
        (output.status.code(), String::from_utf8_lossy(&said).into_owned())
    };
    let out = folder.join("../picture.png");
    let draw = ["--device", "cpu", "--steps", "1", "--out", out.to_str().unwrap()];

    let mut upscaler = sound["components"][DENOISER].clone();
    upscaler["architecture"] = json!("upscaler");
    upscaler["variants"][0]["shards"][0]["file"] = json!("upscaler.safetensors");
    let more = with(&sound, "/components/upscaler", upscaler);
    let bytes = b"t h";
    let asset = json!({ "file": "merges.txt", "bytes": bytes.len(), "sha256": uvit_web::weights::sha256(bytes) });
    let more = with(&more, "/assets/tokenizer", asset);
    let (status, said) = run("inspect", &more, &[]);
    assert_eq!(status, Some(0), "{said}");
    let hash = parse(&more).unwrap().model_hash(None).unwrap();
    for line in [
        "task class",
        "component denoiser: uvit",
        "component upscaler: upscaler (this build does not use it)",
        "asset tokenizer: merges.txt, 0.00 MB",
        &format!("model hash as q8: {hash}"),
    ] {
        assert!(said.lines().any(|said| said == line), "{line}: {said}");
    }
    let report: Value = serde_json::from_str(&run("inspect", &more, &["--json"]).1).unwrap();
    assert_eq!(report["stored"]["modelHash"]["q8"], hash);
    assert_eq!(report["stored"]["components"]["upscaler"]["used"], false);

    // The asset is missing, then another one, then the right one.
    let (status, said) = run("generate", &more, &draw);
    assert!(status == Some(3) && said.contains("error[IO]") && said.contains("merges.txt"), "{said}");
    std::fs::write(folder.join("merges.txt"), "t a").unwrap();
    let (status, said) = run("generate", &more, &draw);
    assert!(status == Some(3) && said.contains("error[SHARD_CORRUPT]: asset tokenizer: merges.txt"), "{said}");
    std::fs::write(folder.join("merges.txt"), bytes).unwrap();
    let (status, said) = run("generate", &more, &draw);
    assert_eq!(status, Some(0), "{said}");

    std::fs::remove_file(&out).unwrap();
    let (status, said) = run("generate", &with(&sound, "/task", json!("video")), &draw);
    assert!(status == Some(3) && said.contains("error[UNSUPPORTED_MODEL]: the model's task is \"video\""), "{said}");
    assert!(!out.exists());
}
