//! Checkpoints as training scripts leave them: which of their weights are taken, what is said, and what is refused.

#![cfg(feature = "cli")]

mod index;
mod kinds;
#[allow(dead_code)] // each test uses a part
mod pth;

use pth::{Py, dict, save};
use serde_json::Value;
use std::path::{Path, PathBuf};
use uvit_web::json::Read;
use uvit_web::model::{Network, uvit};
use uvit_web::weights::checkpoint::{self, Checkpoint, Weights};
use uvit_web::{Code, Error};

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests").join(name)
}

/// A fresh folder of one file's own.
fn fresh(name: &str) -> PathBuf {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("checkpoints-{name}"));
    let _ = std::fs::remove_dir_all(&folder);
    std::fs::create_dir_all(&folder).unwrap();
    folder
}

/// The golden network that all these files are for.
fn small() -> (Network, Checkpoint) {
    let config = std::fs::read(fixture("goldens/uvit_small_activations/config.json")).unwrap();
    let config: Value = serde_json::from_slice(&config).unwrap();
    let weights = checkpoint::read(&fixture("goldens/uvit_small_activations/weights.safetensors")).unwrap();
    let params = uvit::Config::read(&config["params"]).unwrap();
    (Network::Uvit(params), weights)
}

/// Its weights times a factor, each name after a prefix.
fn scaled(prefix: &str, factor: f32) -> Vec<(String, Py)> {
    let scale = |values: Vec<f32>| values.into_iter().map(|value| factor * value).collect();
    small().1.into_iter().map(|(name, (shape, v))| (format!("{prefix}{name}"), Py::Tensor(shape, scale(v)))).collect()
}

fn state(prefix: &str, factor: f32) -> Py {
    Py::StateDict(scaled(prefix, factor))
}

fn joined(parts: Vec<Vec<(String, Py)>>) -> Py {
    Py::StateDict(parts.concat())
}

fn optimizer() -> Py {
    let moment = || Py::Tensor(vec![32], vec![0.5; 32]);
    let one = Py::Dict(vec![(Py::Text("exp_avg".into()), moment()), (Py::Text("exp_avg_sq".into()), moment())]);
    let group = dict([("lr", Py::Float(1e-4)), ("betas", Py::List(vec![Py::Float(0.9), Py::Float(0.999)]))]);
    dict([("state", Py::Dict(vec![(Py::Int(0), one)])), ("param_groups", Py::List(vec![group]))])
}

fn pth(name: &str, value: &Py) -> PathBuf {
    let path = fresh(name).join("checkpoint.pth");
    save(&path, value, 2);
    path
}

/// Takes the weights; by what factor they are the golden ones, and what is said.
fn take(path: &Path, weights: &str) -> Result<(f32, String), Error> {
    let (network, golden) = small();
    let taken = checkpoint::take(path, &network, &weights.parse()?)?;
    assert_eq!(taken.tensors.len(), golden.len());
    let factor = taken.tensors["norm.weight"].1[0] / golden["norm.weight"].1[0];
    for (name, (shape, values)) in &taken.tensors {
        assert_eq!(shape, &golden[name].0);
        assert!(values.iter().zip(&golden[name].1).all(|(a, b)| *a == factor * b), "{name}");
    }
    Ok((factor, taken.report.unwrap_or_default()))
}

#[test]
fn moving_averages_are_preferred_and_said_wherever_they_lie() {
    let args = Py::Object("argparse", "Namespace", vec![("lr".into(), Py::Float(1e-4)), ("tag".into(), Py::None)]);
    let lightning = joined(vec![scaled("model.", 1.0), scaled("ema_model.", 2.0)]);
    let undotted =
        small().1.into_keys().zip(scaled("", 2.0)).map(|(n, (_, t))| (format!("model_ema.{}", n.replace('.', "")), t));
    let lit_ema =
        [("model_ema.decay".to_owned(), Py::Tensor(vec![], vec![0.9999]))].into_iter().chain(undotted).collect();
    let both = joined(vec![scaled("ema_model.", 2.0), scaled("online_model.", 1.0)]);
    for (name, file, key) in [
        (
            "dit",
            dict([("model", state("", 1.0)), ("ema", state("", 2.0)), ("opt", optimizer()), ("args", args)]),
            "ema",
        ),
        ("ddp", dict([("model", state("module.", 1.0)), ("ema", state("module.", 2.0))]), "ema"),
        ("u-vit", dict([("nnet", state("", 1.0)), ("nnet_ema", state("", 2.0)), ("step", Py::Int(7))]), "nnet_ema"),
        ("sd", dict([("state_dict", state("", 1.0)), ("ema_state_dict", state("", 2.0))]), "ema_state_dict"),
        ("basicsr", dict([("params", state("", 1.0)), ("params_ema", state("", 2.0))]), "params_ema"),
        ("timm", dict([("state_dict", state("", 1.0)), ("state_dict_ema", state("", 2.0))]), "state_dict_ema"),
        ("lightning", dict([("epoch", Py::Int(3)), ("state_dict", lightning)]), "state_dict.ema_model"),
        ("lit-ema", dict([("state_dict", joined(vec![scaled("model.", 1.0), lit_ema]))]), "state_dict.model_ema"),
        (
            "shadow",
            dict([("model", state("", 1.0)), ("ema", dict([("decay", Py::Float(0.9)), ("shadow", state("", 2.0))]))]),
            "ema.shadow",
        ),
        ("pytorch", dict([("model", state("", 1.0)), ("ema", both)]), "ema.ema_model"),
    ] {
        let path = pth(name, &file);
        let (factor, said) = take(&path, "auto").unwrap_or_else(|e| panic!("{name}: {e}"));
        assert_eq!(factor, 2.0, "{name}");
        assert!(said.contains(&format!("took \"{key}")) && said.contains("(EMA)"), "{name}: {said}");
        assert!(said.contains("not taken"), "{name}: {said}");
        assert_eq!(take(&path, "model").unwrap().0, 1.0, "{name}");
        assert_eq!(take(&path, "ema").unwrap().0, 2.0, "{name}");
        assert_eq!(take(&path, key).unwrap().0, 2.0, "{name}");
        let outer = key.split('.').next().unwrap();
        assert_eq!(take(&path, outer).unwrap().0, 2.0, "{name}: {outer}");
    }
    // A list without names, in the order of the trained weights.
    let list = |count: usize| Py::List(scaled("", 2.0).into_iter().take(count).map(|(_, tensor)| tensor).collect());
    let file = |count| {
        dict([
            ("model", state("module.", 1.0)),
            ("ema", dict([("decay", Py::Float(0.9)), ("shadow_params", list(count))])),
        ])
    };
    let path = pth("list-ema", &file(20));
    assert_eq!((take(&path, "auto").unwrap().0, take(&path, "model").unwrap().0), (2.0, 1.0));
    let error = take(&pth("list-short", &file(18)), "auto").unwrap_err();
    assert!(error.cause.contains("18 tensors in \"ema.shadow_params\""), "{error}");

    // In a file of its own.
    let path = pth("beside", &state("", 1.0));
    assert_eq!(take(&path, "auto").unwrap(), (1.0, String::new()));
    save(&path.with_file_name("checkpoint_ema.pth"), &state("", 2.0), 2);
    let (factor, said) = take(&path, "auto").unwrap();
    assert!(factor == 1.0 && said.contains("checkpoint_ema.pth lies beside it"), "{said}");
    assert_eq!(take(&path.with_file_name("checkpoint_ema.pth"), "auto").unwrap(), (2.0, String::new()));

    let (_, said) = take(&pth("rest", &dict([("ema", state("", 2.0)), ("opt", optimizer())])), "auto").unwrap();
    assert!(said.contains("opt (2)"), "{said}");
}

#[test]
fn a_key_that_is_not_there_is_refused_with_those_that_are() {
    let path = pth("keys", &dict([("model", state("", 1.0)), ("best", state("", 3.0))]));
    assert_eq!(take(&path, "best").unwrap().0, 3.0);
    for wish in ["ema", "worst"] {
        let error = take(&path, wish).unwrap_err();
        assert_eq!(error.code, Code::InvalidArgument, "{error}");
        assert!(error.cause.contains("\"model\"") && error.cause.contains("\"best\""), "{error}");
    }
    // Several with nothing to choose by.
    let error =
        take(&pth("rivals", &dict([("first", state("", 1.0)), ("second", state("", 2.0))])), "auto").unwrap_err();
    assert!(error.cause.contains("\"first\", \"second\"") && error.remedy.contains("--weights"), "{error}");
    // An average that lacks something is told, not passed over.
    let Py::StateDict(mut entries) = state("", 2.0) else { unreachable!() };
    entries.retain(|(name, _)| name != "norm.bias");
    let path = pth("half", &dict([("model", state("", 1.0)), ("ema", Py::StateDict(entries))]));
    let error = take(&path, "auto").unwrap_err();
    assert_eq!(error.code, Code::TensorMissing);
    assert!(error.cause.contains("norm.bias") && error.remedy.contains("--weights model"), "{error}");
    assert_eq!(take(&path, "model").unwrap().0, 1.0);
}

#[test]
fn weights_are_found_whatever_lies_beside_them() {
    let rng = || Py::Bytes(vec![7; 16]);
    let loss = || Py::Tensor(vec![3], vec![1.0; 3]);
    let shared = || Py::Shared("weights", Box::new(state("", 1.0)));
    for (name, file) in [
        ("rng", dict([("rng_state", rng()), ("step", Py::Tensor(vec![], vec![7.0])), ("model", state("", 1.0))])),
        (
            "losses",
            dict([("losses", loss()), ("state_dict", state("module._orig_mod.", 1.0)), ("optimizer", optimizer())]),
        ),
        ("deep", dict([("epoch", Py::Int(1)), ("train", dict([("nets", dict([("net", state("", 1.0))]))]))])),
        ("list", Py::List(vec![Py::Int(5), state("model.", 1.0)])),
        ("flat", Py::StateDict([scaled("", 1.0), vec![("rng_state".into(), rng())]].concat())),
        ("outside", Py::StateDict([scaled("net.", 1.0), vec![("betas".into(), loss())]].concat())),
        ("twice", dict([("model", shared()), ("model_state_dict", shared())])),
    ] {
        assert_eq!(take(&pth(name, &file), "auto").unwrap_or_else(|e| panic!("{name}: {e}")).0, 1.0, "{name}");
    }
    // Another protocol, and another ending.
    let path = fresh("protocol").join("model.pth.tar");
    save(&path, &dict([("model", state("module.", 1.0)), ("args", Py::Object("a", "B", vec![]))]), 4);
    assert_eq!(take(&path, "auto").unwrap().0, 1.0);
}

#[test]
fn a_whole_module_gives_the_names_of_its_state_dict() {
    // One level a dot.
    fn nest(entries: Vec<(String, Py)>) -> Py {
        let mut parameters = Vec::new();
        let mut children: Vec<(String, Vec<(String, Py)>)> = Vec::new();
        for (name, value) in entries {
            match name.split_once('.') {
                None => parameters.push((name, value)),
                Some((child, rest)) => match children.iter_mut().find(|(name, _)| name == child) {
                    Some((_, entries)) => entries.push((rest.into(), value)),
                    None => children.push((child.into(), vec![(rest.into(), value)])),
                },
            }
        }
        let modules = children.into_iter().map(|(name, entries)| (name, nest(entries))).collect();
        let attributes = vec![
            ("training".into(), Py::Int(0)),
            ("_parameters".into(), Py::StateDict(parameters)),
            ("_modules".into(), Py::StateDict(modules)),
        ];
        Py::Object("libs.uvit", "UViT", attributes)
    }
    let whole = nest(scaled("", 1.0));
    assert_eq!(take(&pth("module", &whole), "auto").unwrap().0, 1.0);
    let averaged = nest(scaled("", 2.0));
    assert_eq!(take(&pth("modules", &dict([("net", whole), ("ema", averaged)])), "auto").unwrap().0, 2.0);
}

#[test]
fn prefixes_are_dropped_in_safetensors_too() {
    let (_, golden) = small();
    let write = |name: &str, entries: &[(String, Vec<usize>, Vec<u8>, safetensors::Dtype)]| {
        let path = fresh(name).join("model.bin");
        let view = |(name, shape, bytes, dtype): &'static (String, Vec<usize>, Vec<u8>, safetensors::Dtype)| {
            (name.clone(), safetensors::tensor::TensorView::new(*dtype, shape.clone(), bytes).unwrap())
        };
        let entries: &'static _ = entries.to_vec().leak();
        std::fs::write(&path, safetensors::serialize(entries.iter().map(view), None).unwrap()).unwrap();
        path
    };
    let all = |prefix: &str, factor: f32| -> Vec<_> {
        let bytes = |values: &[f32]| values.iter().flat_map(|v| (factor * v).to_le_bytes()).collect();
        golden
            .iter()
            .map(|(n, (s, v))| (format!("{prefix}{n}"), s.clone(), bytes(v), safetensors::Dtype::F32))
            .collect()
    };
    for prefix in ["module.", "_orig_mod.", "ema_model.", "model.", "module._orig_mod.", "_orig_mod.module.", "a.b.c."]
    {
        let mut entries = all(prefix, 1.0);
        entries.push(("step".into(), vec![1], vec![7; 8], safetensors::Dtype::I64));
        let (factor, said) = take(&write("prefix", &entries), "auto").unwrap();
        assert!(factor == 1.0 && said.contains(&format!("without {prefix:?}")), "{prefix}: {said}");
    }
    let path = write("pair", &[all("", 1.0), all("ema.", 2.0)].concat());
    assert_eq!((take(&path, "auto").unwrap().0, take(&path, "model").unwrap().0), (2.0, 1.0));
    assert_eq!(take(&write("plain", &all("", 1.0)), "auto").unwrap(), (1.0, String::new()));

    // What lies behind the prefix belongs to the network, or should.
    for stranger in ["model.head.weight", "model.norm.scale"] {
        let mut entries = all("model.", 1.0);
        entries.push((stranger.into(), vec![1], vec![0; 4], safetensors::Dtype::F32));
        let error = take(&write("stranger", &entries), "auto").unwrap_err();
        assert!(error.code == Code::TensorUnexpected && error.cause.contains(stranger), "{error}");
    }
    // Whole numbers are no weights.
    let mut entries = all("model.", 1.0);
    entries.iter_mut().for_each(|(_, shape, bytes, dtype)| {
        bytes.truncate(shape.iter().product());
        *dtype = safetensors::Dtype::I8;
    });
    let error = take(&write("integers", &entries), "auto").unwrap_err();
    assert!(error.code == Code::BadCheckpoint && error.cause.contains("I8, no float"), "{error}");
}

#[test]
fn two_names_that_become_one_are_refused_by_name() {
    let one = |name: &str| vec![(name.to_owned(), Py::Tensor(vec![32], vec![0.5; 32]))];
    for (name, file) in [
        ("clash", joined(vec![scaled("module.", 1.0), one("norm.weight")])),
        ("clash-all", joined(vec![scaled("module.", 1.0), scaled("", 2.0)])),
        ("clash-model", joined(vec![scaled("model.", 1.0), one("norm.weight")])),
        ("clash-models", joined(vec![scaled("model.", 1.0), scaled("", 2.0)])),
        ("clash-wrappers", joined(vec![scaled("_orig_mod.", 1.0), one("module.norm.weight")])),
        ("clash-same", joined(vec![scaled("", 1.0), one("norm.weight")])),
    ] {
        let error = take(&pth(name, &file), "auto").unwrap_err();
        assert_eq!(error.code, Code::BadCheckpoint, "{name}: {error}");
        assert!(error.cause.contains("would both be"), "{name}: {error}");
        assert!(
            name == "clash-all" || name == "clash-models" || error.cause.contains("norm.weight"),
            "{name}: {error}"
        );
    }
}

#[test]
fn what_is_missing_is_told_with_what_is_there() {
    let tensor = || Py::Tensor(vec![2, 3], vec![0.0; 6]);
    let other =
        dict([("generator", dict([("conv1.weight", tensor()), ("conv2.weight", tensor())])), ("opt", optimizer())]);
    let error = take(&pth("other", &other), "auto").unwrap_err();
    assert_eq!(error.code, Code::TensorMissing);
    for word in ["conv1.weight [2, 3]", "\"generator\" with 2 tensors", "\"opt\""] {
        assert!(error.cause.contains(word), "{error}");
    }
    let mut entries = scaled("module.", 1.0);
    entries.retain(|(name, _)| name != "module.norm.bias");
    let error = take(&pth("lacks", &dict([("model", Py::StateDict(entries))])), "auto").unwrap_err();
    assert!(error.code == Code::TensorMissing && error.cause.contains("norm.bias [32]"), "{error}");
    assert!(error.cause.contains("\"model.module\" (which has 19 of 20)"), "{error}");
    let error = take(&pth("no-tensors", &dict([("epoch", Py::Int(3)), ("args", Py::None)])), "auto").unwrap_err();
    assert!(error.code == Code::BadCheckpoint && error.cause.contains("epoch, args"), "{error}");
}

/// What is said of a pickle without weights.
fn pickled(name: &str, pickle: &[u8]) -> Error {
    let path = fresh(&format!("pickle-{name}")).join("pickle.pth");
    let mut zip = zip::ZipWriter::new(std::fs::File::create(&path).unwrap());
    let stored = zip::write::SimpleFileOptions::default().compression_method(zip::CompressionMethod::Stored);
    zip.start_file("a/data.pkl", stored).unwrap();
    std::io::Write::write_all(&mut zip, pickle).unwrap();
    zip.finish().unwrap();
    take(&path, "auto").unwrap_err()
}

/// By protocol.
#[rustfmt::skip]
const PICKLES: [(&str, &[u8]); 6] = [
    ("0", b"(dp0\x0aVepoch\x0ap1\x0aI3\x0asVt\xe9\x0ap2\x0a(lp3\x0aL1180591620717411303424L\x0aaI-5\x0aaF1.5\x0aaI01\x0aaNac__builtin__\x0aset\x0ap4\x0a((lp5\x0aI1\x0aatp6\x0aRp7\x0aac_codecs\x0aencode\x0ap8\x0a(Vx\x0ap9\x0aVlatin1\x0ap10\x0atp11\x0aRp12\x0aasVp\x0ap13\x0acpathlib\x0aPurePosixPath\x0ap14\x0a(V/\x0ap15\x0aVa\x0ap16\x0atp17\x0aRp18\x0as."),
    ("1", b"}q\x00(X\x05\x00\x00\x00epochq\x01K\x03X\x03\x00\x00\x00t\xc3\xa9q\x02]q\x03(L1180591620717411303424L\x0aJ\xfb\xff\xff\xffG?\xf8\x00\x00\x00\x00\x00\x00I01\x0aNc__builtin__\x0aset\x0aq\x04(]q\x05K\x01atq\x06Rq\x07c_codecs\x0aencode\x0aq\x08(X\x01\x00\x00\x00xq\x09X\x06\x00\x00\x00latin1q\x0atq\x0bRq\x0ceX\x01\x00\x00\x00pq\x0dcpathlib\x0aPurePosixPath\x0aq\x0e(X\x01\x00\x00\x00/q\x0fX\x01\x00\x00\x00aq\x10tq\x11Rq\x12u."),
    ("2", b"\x80\x02}q\x00(X\x05\x00\x00\x00epochq\x01K\x03X\x03\x00\x00\x00t\xc3\xa9q\x02]q\x03(\x8a\x09\x00\x00\x00\x00\x00\x00\x00\x00@J\xfb\xff\xff\xffG?\xf8\x00\x00\x00\x00\x00\x00\x88Nc__builtin__\x0aset\x0aq\x04]q\x05K\x01a\x85q\x06Rq\x07c_codecs\x0aencode\x0aq\x08X\x01\x00\x00\x00xq\x09X\x06\x00\x00\x00latin1q\x0a\x86q\x0bRq\x0ceX\x01\x00\x00\x00pq\x0dcpathlib\x0aPurePosixPath\x0aq\x0eX\x01\x00\x00\x00/q\x0fX\x01\x00\x00\x00aq\x10\x86q\x11Rq\x12u."),
    ("3", b"\x80\x03}q\x00(X\x05\x00\x00\x00epochq\x01K\x03X\x03\x00\x00\x00t\xc3\xa9q\x02]q\x03(\x8a\x09\x00\x00\x00\x00\x00\x00\x00\x00@J\xfb\xff\xff\xffG?\xf8\x00\x00\x00\x00\x00\x00\x88Ncbuiltins\x0aset\x0aq\x04]q\x05K\x01a\x85q\x06Rq\x07C\x01xq\x08eX\x01\x00\x00\x00pq\x09cpathlib\x0aPurePosixPath\x0aq\x0aX\x01\x00\x00\x00/q\x0bX\x01\x00\x00\x00aq\x0c\x86q\x0dRq\x0eu."),
    ("4", b"\x80\x04\x95j\x00\x00\x00\x00\x00\x00\x00}\x94(\x8c\x05epoch\x94K\x03\x8c\x03t\xc3\xa9\x94]\x94(\x8a\x09\x00\x00\x00\x00\x00\x00\x00\x00@J\xfb\xff\xff\xffG?\xf8\x00\x00\x00\x00\x00\x00\x88N\x8f\x94(K\x01\x90C\x01x\x94e\x8c\x01p\x94\x8c\x07pathlib\x94\x8c\x0dPurePosixPath\x94\x93\x94\x8c\x01/\x94\x8c\x01a\x94\x86\x94R\x94u."),
    ("5", b"\x80\x05\x95j\x00\x00\x00\x00\x00\x00\x00}\x94(\x8c\x05epoch\x94K\x03\x8c\x03t\xc3\xa9\x94]\x94(\x8a\x09\x00\x00\x00\x00\x00\x00\x00\x00@J\xfb\xff\xff\xffG?\xf8\x00\x00\x00\x00\x00\x00\x88N\x8f\x94(K\x01\x90C\x01x\x94e\x8c\x01p\x94\x8c\x07pathlib\x94\x8c\x0dPurePosixPath\x94\x93\x94\x8c\x01/\x94\x8c\x01a\x94\x86\x94R\x94u."),
];

/// `pickle.dumps({"epoch": 3, "t\u00e9": [2**70, -5, 1.5, True, None, {1}, b"x"], "p": PurePosixPath("/a")}, protocol)`.
#[test]
fn every_protocol_is_read() {
    for (protocol, pickle) in PICKLES {
        let error = pickled(protocol, pickle);
        assert!(error.code == Code::BadCheckpoint && error.cause.contains("only epoch, t"), "{protocol}: {error}");
    }
}

#[test]
fn hostile_pickles_end() {
    // Lists of the same list twice, 60 deep: 2^60 values, were they all visited.
    let mut laughs = b"\x80\x02]q\x00".to_vec();
    for level in 0..60u8 {
        laughs.extend([b']', b'q', level + 1, b'(', b'h', level, b'h', level, b'e']);
    }
    laughs.push(b'.');
    // A list in a list, a million deep, and one that holds itself.
    let deep = [b"\x80\x02".to_vec(), b"](".repeat(1_000_000), b"e".repeat(1_000_000), b".".to_vec()].concat();
    let circle = b"\x80\x02]q\x00(h\x00h\x00e.";
    // Lengths and numbers beyond the file.
    let long = b"\x80\x02X\xff\xff\xff\xffabc.";
    let memo = b"\x80\x02]r\xff\xff\xff\xff.";
    let endless = b"\x80\x02(((";
    for (name, pickle) in [
        ("laughs", &laughs[..]),
        ("deep", &deep),
        ("circle", circle),
        ("long", long),
        ("memo", memo),
        ("endless", endless),
    ] {
        let error = pickled(name, pickle);
        assert_eq!(error.code, Code::BadCheckpoint, "{name}: {error}");
    }
}

#[test]
fn a_damaged_value_is_noticed() {
    let path = pth("damaged", &dict([("model", state("", 1.0))]));
    let mut bytes = std::fs::read(&path).unwrap();
    let golden = &small().1["pos_embed"].1;
    let value: Vec<u8> = golden[..4].iter().flat_map(|v| v.to_le_bytes()).collect();
    let at = bytes.windows(16).position(|window| window == value).unwrap();
    bytes[at] ^= 1;
    std::fs::write(&path, bytes).unwrap();
    let error = take(&path, "auto").unwrap_err();
    assert!(error.code == Code::BadCheckpoint && error.cause.contains("damaged"), "{error}");
    assert_eq!("ema".parse::<Weights>().unwrap(), Weights::Ema);
}
