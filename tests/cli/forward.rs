//! `uvit forward`: a network's numbers, from a file into a file.

use super::given::said;
use super::{MODEL, folder, printed, uvit};
use half::f16;
use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};
use std::path::Path;
use uvit_web::package::{DENOISER, read_manifest};
use uvit_web::pipeline::{ComputeChoice, DeviceChoice, LoadOptions, Loader, NamedTensor, Values};
use uvit_web::plan::Compute;
use uvit_web::sampler::TorchGenerator;

struct Stored(&'static str, Dtype, Vec<usize>, Vec<u8>);

fn write(path: &Path, tensors: &[Stored]) {
    let views = tensors.iter().map(|Stored(name, dtype, shape, bytes)| {
        (*name, TensorView::new(*dtype, shape.clone(), bytes).expect("a shape of so many values"))
    });
    std::fs::write(path, safetensors::serialize(views, None).unwrap()).unwrap();
}

fn x(items: usize) -> Stored {
    let values = TorchGenerator::new(11).randn_f32(items * 3 * 64 * 64);
    Stored("x", Dtype::F32, vec![items, 3, 64, 64], bytemuck::cast_slice(&values).to_vec())
}

fn times(times: &[f32]) -> Stored {
    Stored("timesteps", Dtype::F32, vec![times.len()], bytemuck::cast_slice(times).to_vec())
}

fn labels(labels: &[i64]) -> Stored {
    Stored("y", Dtype::I64, vec![labels.len()], bytemuck::cast_slice(labels).to_vec())
}

/// Two items, for other commands.
pub fn write_inputs(path: &Path) {
    write(path, &[x(2), times(&[900.5, 12.0]), labels(&[3, 21])]);
}

fn forward(given: &Path, out: &Path) -> std::process::Output {
    let files = [given, out].map(|path| path.to_str().unwrap());
    uvit(&["forward", MODEL, files[0], files[1], "--device", "cpu", "--compute", "f32"])
}

/// What the library computes.
fn wanted(x: &[f32], times: &[f64], labels: &[u32]) -> Vec<f32> {
    let (manifest, folder) = read_manifest(&Path::new(env!("CARGO_MANIFEST_DIR")).join(MODEL)).unwrap();
    let options = LoadOptions {
        device: DeviceChoice::Cpu,
        compute: ComputeChoice::Fixed(Compute::F32),
        ..LoadOptions::default()
    };
    pollster::block_on(async {
        let mut loader = Loader::new(manifest, options).await.unwrap();
        for index in 0..loader.files().len() {
            let bytes = std::fs::read(folder.join(&loader.files()[index].stored.file)).unwrap();
            loader.add_file(index, &bytes).await.unwrap();
        }
        let mut pipeline = loader.finish().await.unwrap();
        let given = vec![
            NamedTensor::new("x", Values::Floats(x.to_vec())),
            NamedTensor::new("timesteps", Values::Times(times.to_vec())),
            NamedTensor::new("y", Values::Indices(labels.to_vec())),
        ];
        let mut results = pipeline.forward(DENOISER, given, &|| false).await.unwrap();
        let Values::Floats(values) = results.remove(0).values else { panic!("floats come out") };
        values
    })
}

#[test]
fn forward_gives_the_networks_numbers_and_inspect_names_its_ports() {
    let folder = folder("forward");
    let (given, out) = (folder.join("in.safetensors"), folder.join("out.safetensors"));
    // Times and values as training scripts may store them.
    let Stored(_, _, shape, bytes) = x(2);
    let halves: Vec<f16> = bytemuck::cast_slice::<u8, f32>(&bytes).iter().map(|&v| f16::from_f32(v)).collect();
    let x_f16 = Stored("x", Dtype::F16, shape, halves.iter().flat_map(|v| v.to_le_bytes()).collect());
    write(&given, &[x_f16, times(&[900.5, 12.0]), labels(&[3, 21])]);
    let run = forward(&given, &out);
    assert!(run.status.success(), "{run:?}");
    assert!(printed(&run).contains("out [2, 3, 64, 64]"), "{run:?}");
    let file = std::fs::read(&out).unwrap();
    let file = SafeTensors::deserialize(&file).unwrap();
    let view = file.tensor("out").unwrap();
    assert_eq!((view.dtype(), view.shape(), file.len()), (Dtype::F32, &[2usize, 3, 64, 64][..], 1));
    let got: Vec<f32> = view.data().as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)).collect();
    let floats: Vec<f32> = halves.iter().map(|v| v.to_f32()).collect();
    assert!(got == wanted(&floats, &[900.5, 12.0], &[3, 21]));

    let text = printed(&uvit(&["inspect", MODEL]));
    for port in
        ["port x: floats [1, 3, 64, 64]", "port timesteps: times [1]", "port y: indices [1]", "port out: output"]
    {
        assert!(text.contains(port), "{text}");
    }
    let json: serde_json::Value = serde_json::from_str(&printed(&uvit(&["inspect", MODEL, "--json"]))).unwrap();
    assert_eq!(json["ports"][1], serde_json::json!({ "name": "timesteps", "kind": "times", "shape": [1] }));
}

#[test]
fn forward_refuses_what_does_not_fit_by_name_and_writes_nothing() {
    let folder = folder("forward-refused");
    let (given, out) = (folder.join("in.safetensors"), folder.join("out.safetensors"));
    let context = Stored("context", Dtype::F32, vec![1], vec![0; 4]);
    let bytes = Stored("y", Dtype::U8, vec![1], vec![3]);
    let halved = Stored("y", Dtype::F32, vec![1], bytemuck::cast_slice(&[2.5f32]).to_vec());
    let nan = times(&[f32::NAN]);
    for (tensors, words) in [
        (vec![x(1), times(&[1.0]), labels(&[0]), context], "no tensor \"context\""),
        (vec![x(1), times(&[1.0])], "no tensor \"y\" is given"),
        (vec![x(1), times(&[1.0, 2.0]), labels(&[0])], "\"timesteps\" is [2], and [1] is needed"),
        (vec![x(1), times(&[1.0]), labels(&[400])], "y 400 is out of range"),
        (vec![x(1), times(&[1.0]), labels(&[-1])], "\"y\" holds -1"),
        (vec![x(1), times(&[1.0]), halved], "\"y\" holds 2.5"),
        (vec![x(1), times(&[1.0]), bytes], "\"y\" is U8"),
        (vec![x(1), nan, labels(&[0])], "\"timesteps\" holds a value that is NaN"),
    ] {
        write(&given, &tensors);
        let run = forward(&given, &out);
        let text = said(&run);
        assert_eq!(run.status.code(), Some(2), "{text}");
        assert!(text.contains("error[INVALID_ARGUMENT]") && text.contains(words), "{words}: {text}");
        assert!(!out.exists());
    }
    std::fs::write(&given, b"no tensors").unwrap();
    assert_eq!(forward(&given, &out).status.code(), Some(2));
    assert_eq!(forward(&folder.join("none.safetensors"), &out).status.code(), Some(3));
    write(&given, &[x(1), times(&[1.0]), labels(&[0])]);
    assert_eq!(forward(&given, &folder.join("no/such/out.safetensors")).status.code(), Some(3));
}
