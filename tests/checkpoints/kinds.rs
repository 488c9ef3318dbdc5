//! Files that people give for checkpoints: each is what it holds, whatever it is called.

use super::{fixture, fresh, take};
use serde_json::json;
use uvit_web::Code;

#[test]
fn a_file_is_what_it_holds_not_what_it_is_called() {
    let zipped = |entries: &[(&str, &[u8])]| {
        let mut zip = zip::ZipWriter::new(std::io::Cursor::new(Vec::new()));
        for (name, bytes) in entries {
            zip.start_file(
                *name,
                zip::write::SimpleFileOptions::default().compression_method(zip::CompressionMethod::Stored),
            )
            .unwrap();
            std::io::Write::write_all(&mut zip, bytes).unwrap();
        }
        zip.finish().unwrap().into_inner()
    };
    let index = json!({"metadata": {}, "weight_map": {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}});
    let old = b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19.\x80\x02M\xe9\x03.".to_vec();
    let golden = std::fs::read(fixture("goldens/uvit_small_activations/weights.safetensors")).unwrap();
    let torch = std::fs::read(fixture("weights/tiny.pth")).unwrap();
    let mut tar = vec![b'a'; 1024];
    tar[257..262].copy_from_slice(b"ustar");
    let lfs = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 178412345\n";
    let cases: Vec<(&str, Vec<u8>, &str, &str)> = vec![
        ("model.safetensors", b"<!DOCTYPE html>\n<html><head><title>Sign in</title>".into(), "web page", "/resolve/"),
        ("model.pth", b"\xef\xbb\xbf\n <HTML lang=en>".into(), "web page", "Download"),
        (
            "model.pth",
            b"<?xml version=\"1.0\"?><Error><Code>AccessDenied</Code></Error>".into(),
            "AccessDenied",
            "Download",
        ),
        ("model.pth", b"Entry not found".into(), "Entry not found", "Download"),
        ("model.pth", lfs.into(), "Git LFS pointer, which stands for a file of 178412345 bytes", "git lfs pull"),
        ("model.safetensors", lfs.into(), "Git LFS pointer", "git lfs pull"),
        ("old.pth", old.clone(), "before 1.6", "torch.save(torch.load("),
        ("old.safetensors", old, "before 1.6", "torch.save(torch.load("),
        (
            "model.safetensors.index.json",
            index.to_string().into(),
            "an index that lists model-00001-of-00002.safetensors, which is not beside it",
            "whole folder",
        ),
        ("config.json", b"{\"img_size\": 8}".into(), "JSON text, not weights", "--config"),
        ("model.gguf", b"GGUF\x03\x00\x00\x00".into(), "GGUF", "made from"),
        ("model.onnx", b"\x08\x07\x12\x07pytorch\x1a\x052.0.0\xff".into(), "ONNX", "exported from"),
        ("model.h5", b"\x89HDF\r\n\x1a\n\x00".into(), "HDF5", "safetensors"),
        ("model.npz", zipped(&[("a.npy", b"\x93NUMPY")]), "NumPy", "safetensors"),
        ("model.zip", zipped(&[("run/model.pth", &torch)]), "checkpoint inside", "Unpack"),
        ("model.zip", zipped(&[("readme.txt", b"hi")]), "readme.txt", "torch.save"),
        ("model.tar", tar, "tar archive", "Unpack"),
        ("model.pth.gz", b"\x1f\x8b\x08\x00".into(), "gzip", "Unpack"),
        (
            "model.pkl",
            b"\x80\x04\x95\x05\x00\x00\x00\x00\x00\x00\x00}\x94.".into(),
            "pickle that torch.save did not write",
            "torch.save",
        ),
        ("empty.pth", Vec::new(), "empty", "again"),
        ("zeros.pth", vec![0; 4096], "zeros", "again"),
        ("cut.safetensors", golden[..golden.len() / 2].into(), "damaged", "again"),
        ("cut.safetensors", golden[..100].into(), "cut short", "again"),
        ("cut.pth", torch[..torch.len() / 2].into(), "cut short", "again"),
        ("noise", (0..255u8).rev().collect(), "first bytes, fe fd fc", "state_dict"),
    ];
    let folder = fresh("kinds");
    for (name, bytes, cause, remedy) in cases {
        let path = folder.join(name);
        std::fs::write(&path, bytes).unwrap();
        let error = take(&path, "auto").unwrap_err();
        assert_eq!(error.code, Code::BadCheckpoint, "{name}: {error}");
        assert!(error.cause.contains(cause) && error.cause.contains(name), "{name}: {error}");
        assert!(error.remedy.contains(remedy), "{name}: {error}");
    }
    // Sound files under any name.
    for (name, bytes) in
        [("weights", &golden), ("weights.pth", &golden), ("weights.tar", &torch), ("w.safetensors", &torch)]
    {
        std::fs::write(folder.join(name), bytes).unwrap();
        assert_eq!(take(&folder.join(name), "auto").unwrap().0, 1.0, "{name}");
    }
    for name in ["model.safetensors", "model.safetensors.index.json"] {
        std::fs::remove_file(folder.join(name)).unwrap();
    }
    let error = take(&folder, "auto").unwrap_err();
    assert!(error.code == Code::BadCheckpoint && error.cause.contains("folder; it holds cut.pth"), "{error}");
}
