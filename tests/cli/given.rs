//! What the tool is given: every value is looked at before any work, and refused in one form.

use super::{MODEL, folder, printed, uvit};
use serde_json::{Value, json};
use std::path::Path;
use std::process::Output;

pub fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Refused with exit status 2, our form, and these words.
fn refused(arguments: &[&str], words: &[&str]) {
    let run = uvit(arguments);
    let said = said(&run);
    assert_eq!(run.status.code(), Some(2), "{arguments:?}: {said}");
    assert!(said.starts_with("error[INVALID_ARGUMENT]: ") && said.contains("\n  remedy: "), "{arguments:?}: {said}");
    for word in words {
        assert!(said.contains(word), "{arguments:?} without {word:?}: {said}");
    }
}

#[test]
fn numbers_below_zero_are_values_and_those_out_of_range_are_refused_in_our_form() {
    let folder = folder("numbers");
    let out = folder.join("p.png");
    let out = out.to_str().unwrap();
    let run = uvit(&["generate", MODEL, "--device", "cpu", "--steps", "1", "--guidance-scale", "-1", "--out", out]);
    assert!(run.status.success(), "{run:?}");
    let generate = |option: &str, value: &str, words: &[&str]| {
        refused(&["generate", MODEL, "--device", "cpu", "--out", "never.png", option, value], words);
    };
    generate("--seed", "-1", &["--seed", "\"-1\"", "0 to 4294967295"]);
    generate("--seed", "4294967296", &["--seed", "0 to 4294967295"]);
    generate("--seed", "1.5", &["--seed", "whole number"]);
    generate("--eta", "-0.1", &["eta is -0.1"]);
    generate("--steps", "-3", &["--steps", "whole number"]);
    generate("--count", "-1", &["--count", "whole number"]);
    generate("--count", "65", &["count is 65", "1 to 64"]);
    generate("--threads", "-1", &["--threads", "1 to 1024"]);
    generate("--threads", "0", &["--threads", "1 to 1024"]);
    generate("--guidance-scale", "much", &["--guidance-scale is \"much\"", "Give a number"]);
    for value in ["-inf", "inf", "NaN", "-1e9"] {
        generate("--guidance-scale", value, &["guidanceScale is"]);
        generate("--eta", value, &["eta is"]);
    }
    generate("--label", "-1", &["there is no label \"-1\""]);
    generate("--sampler", "magic", &["--sampler", "magic", "ddim"]);
    refused(&["generate", MODEL, "--device", "cpu", "--guidance-interval", "-0.5", "0.5"], &["-0.5 to 0.5"]);
    for (command, option) in [
        ("bench", "--batch"),
        ("bench", "--repeats"),
        ("quality", "--pictures"),
        ("sensitivity", "--forwards"),
        ("block-cache", "--outer"),
        ("block-cache", "--refresh"),
        ("block-cache", "--pictures"),
        ("inspect", "--batch"),
    ] {
        for value in ["-1", "99999999999999999999999999", "9223372036854775808"] {
            refused(&[command, MODEL, option, value], &[option]);
        }
    }
    for value in ["9223372036854775807", "4097", "0"] {
        refused(&["inspect", MODEL, "--batch", value], &["--batch", "1 to 4096"]);
        refused(&["inspect", MODEL, "--guidance", "--batch", value], &["--batch", "1 to 4096"]);
    }
    assert!(uvit(&["inspect", MODEL, "--guidance", "--batch", "64"]).status.success());
    // More than one binding holds: the error says so, and nothing overflows.
    let large = uvit(&["inspect", "--preset", "imagenet256_uvit_huge", "--guidance", "--batch", "4096"]);
    assert!(large.status.code() == Some(4) && said(&large).contains("LIMIT_TOO_SMALL"), "{large:?}");
    for more in [&[][..], &["--savings"]] {
        refused(&[&["quality", MODEL, "--pictures", "0"], more].concat(), &["--pictures", "1"]);
    }
    refused(&["sensitivity", MODEL, "--forwards", "0"], &["--forwards"]);
    refused(&["quality", MODEL, "--dtype", "f16"], &["not stored as f16"]);
    refused(&["quality", MODEL, "--savings", "--dtype", "q8", "--dtype", "q4"], &["--savings"]);
}

#[test]
fn an_option_that_the_sampler_does_not_take_is_refused() {
    for sampler in [&[][..], &["--sampler", "dpmpp_2m"], &["--sampler", "euler_maruyama_sde"], &["--preset", "fast"]] {
        let arguments =
            [&["generate", MODEL, "--device", "cpu", "--eta", "0.5", "--out", "never.png"], sampler].concat();
        refused(&arguments, &["eta is 0.5", "takes none", "ddim"]);
    }
    let out = folder("eta").join("p.png");
    let ddim = ["generate", MODEL, "--device", "cpu", "--steps", "1", "--sampler", "ddim", "--eta", "0.5"];
    let run = uvit(
        &[&ddim[..], &["--guidance-scale", "1", "--guidance-interval", "0", "0.5", "--out", out.to_str().unwrap()]]
            .concat(),
    );
    assert!(run.status.success(), "{run:?}");
    let texts = super::read_png(&out).3;
    let settings: Value =
        serde_json::from_str(&texts.iter().find(|(keyword, _)| keyword == "Settings").unwrap().1).unwrap();
    assert_eq!(settings["eta"], 0.5);
    // Guidance was off: there was no interval of it.
    assert_eq!(settings["guidanceInterval"], Value::Null);
}

/// A configuration and labels in a folder, for a network without weights: what is wrong is found before they are looked for.
fn convert(folder: &Path, change: impl Fn(&mut Value), labels: &Value, options: &[&str], words: &[&str]) {
    let config = std::fs::read("tests/fixtures/emoji/config.json").unwrap();
    let mut config: Value = serde_json::from_slice(&config).unwrap();
    change(&mut config);
    let paths = ["config.json", "labels.json", "out"].map(|name| folder.join(name).to_str().unwrap().to_owned());
    std::fs::write(&paths[0], config.to_string()).unwrap();
    std::fs::write(&paths[1], json!({ "labels": labels }).to_string()).unwrap();
    let fixed = ["convert", "no/such.pth", "--config", &paths[0], "--labels", &paths[1], "--out", &paths[2]];
    refused(&[&fixed[..], options].concat(), words);
}

#[test]
fn what_convert_is_given_is_checked_before_the_weights_are_read() {
    let folder = folder("convert-given");
    let good = json!([{ "index": 0, "name": "cat" }]);
    let q8 = ["--dtype", "q8"];
    let same = |_: &mut Value| {};
    let crane =
        json!([{ "index": 3, "name": "crane" }, { "index": 5, "name": "dog" }, { "index": 9, "name": "crane" }]);
    convert(&folder, same, &crane, &q8, &["3 and 9 are both called \"crane\"", "\"crane (3)\""]);
    let imagenet = json!([{ "index": 134, "name": "crane" }, { "index": 517, "name": "crane" }]);
    let classes = |config: &mut Value| config["num_classes"] = 1001.into();
    convert(
        &folder,
        classes,
        &imagenet,
        &q8,
        &["134 and 517 are both called \"crane\"", "crane (bird)", "crane (machine)"],
    );
    let index = json!([{ "index": 3, "name": "cat" }, { "index": 3, "name": "dog" }]);
    convert(&folder, same, &index, &q8, &["index 3", "cat", "dog"]);
    convert(
        &folder,
        same,
        &json!([{ "index": 31, "name": "cat" }]),
        &q8,
        &["\"cat\" has index 31", "31 classes", "0 to 30"],
    );
    convert(&folder, same, &json!([{ "index": -1, "name": "cat" }]), &q8, &["the labels", "no index"]);
    convert(&folder, same, &json!(["cat"]), &q8, &["the labels"]);
    convert(&folder, |c| c["null_class"] = 31.into(), &good, &q8, &["null_class is 31", "31 classes"]);
    let unconditional = |c: &mut Value| {
        c["num_classes"] = (-1).into();
        c["null_class"] = Value::Null;
    };
    convert(&folder, unconditional, &good, &q8, &["\"cat\" has index 0", "no classes"]);
    convert(&folder, |c| c["steps"] = 0.into(), &good, &q8, &["steps is 0"]);
    convert(&folder, |c| c["schedule"]["t_min"] = 2.into(), &good, &q8, &["t_min is 2"]);
    let cache = |c: &mut Value| c["cache"] = json!({ "outer": 1, "steps": 25, "refresh": [3, 1] });
    convert(&folder, cache, &good, &q8, &["cache.refresh"]);
    convert(
        &folder,
        same,
        &good,
        &["--dtype", "q8", "--dtype", "f16", "--dtype", "q8"],
        &["--dtype q8 is given twice"],
    );
    convert(&folder, same, &good, &["--dtype", "q8", "--group", "6"], &["--group is 6"]);
    convert(&folder, same, &good, &["--dtype", "q4", "--group", "64"], &["--group is for q8"]);
    convert(&folder, same, &good, &["--dtype", "q8", "--keep-q8", "fc2"], &["--keep-q8 is for q4"]);
    convert(&folder, same, &good, &["--dtype", "q4", "--keep-q8", "fc3"], &["\"fc3\" is in no matrix's name", "fc1"]);
    convert(&folder, same, &good, &["--dtype", "f16", "--calibration", "6"], &["--calibration is for q8 and q4"]);
    convert(&folder, same, &good, &["--dtype", "q8", "--calibration", "-6"], &["--calibration", "whole number"]);
    convert(&folder, same, &good, &["--dtype", "q8", "--weights", ""], &["--weights"]);
    assert!(!folder.join("out").exists());
}

#[test]
fn convert_and_inspect_say_which_weights_they_took() {
    let folder = folder("took");
    let golden: Value =
        serde_json::from_slice(&std::fs::read("tests/goldens/uvit_small_activations/config.json").unwrap()).unwrap();
    let mut config: Value =
        serde_json::from_slice(&std::fs::read("tests/fixtures/emoji/config.json").unwrap()).unwrap();
    config.as_object_mut().unwrap().extend(golden["params"].as_object().unwrap().clone());
    config["null_class"] = Value::Null;
    let path = folder.join("config.json");
    std::fs::write(&path, config.to_string()).unwrap();
    let (config, out) = (path.to_str().unwrap(), folder.join("out"));
    let checkpoint = ["tests/weights/nested.pth", "--config", config];
    let run = uvit(&[&["convert"], &checkpoint[..], &["--dtype", "f32", "--out", out.to_str().unwrap()]].concat());
    assert!(
        run.status.success() && printed(&run).contains("took \"state_dict.module\", names without \"module.\""),
        "{run:?}"
    );
    let run = uvit(&[&["inspect"], &checkpoint[..]].concat());
    assert!(run.status.success() && printed(&run).contains("names without \"module.\""), "{run:?}");
    refused(&[&["inspect"], &checkpoint[..], &["--weights", "ema"]].concat(), &["no EMA weights", "state_dict"]);
}
