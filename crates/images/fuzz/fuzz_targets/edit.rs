//! An image of tasks' memory maps or of files, changed through its types: what was asked for is what is decoded, and changing
//! it back brings the old bytes back.
#![no_main]

use std::fs;

use libfuzzer_sys::fuzz_target;
use prost::Message;
use rewake_images::edit::ImageEditor;
use rewake_images::{ImageReader, ImageWriter, Kind, Layout, proto};
use rewake_images_fuzz::{Scratch, pieces};

static SCRATCH: Scratch = Scratch::new();

fn edited<M: Message + prost::Name + Default + Clone + PartialEq + std::fmt::Debug>(
    kind: Kind,
    bytes: &[u8],
    change: impl Fn(&mut M),
) {
    let path = SCRATCH.dir().join("image");
    let mut image = ImageWriter::new(kind, Layout::V11, &path, Vec::new()).unwrap();
    image.push_raw(bytes, &[]).unwrap();
    fs::write(&path, image.into_inner().unwrap()).unwrap();
    let mut editor = ImageEditor::open(kind, &path).unwrap();
    let (mut before, mut wanted) = (None, None);
    let done = editor.edit(0, |message: &mut M| {
        before = Some(message.clone());
        change(message);
        wanted = Some(message.clone());
    });
    if done.is_err() {
        return;
    }
    let found = editor.entries()[0].message.clone();
    assert_eq!(M::decode(found.as_slice()).unwrap(), wanted.unwrap());
    editor.edit(0, |message: &mut M| *message = before.clone().unwrap()).unwrap();
    let back = M::decode(editor.entries()[0].message.as_slice()).unwrap();
    assert_eq!(back, before.unwrap());
    editor.save().unwrap();
    let mut reader = ImageReader::open(kind, &path).unwrap();
    assert!(reader.next_entry().unwrap().is_some() && reader.next_entry().unwrap().is_none());
}

fuzz_target!(|data: &[u8]| {
    let Some((&what, rest)) = data.split_first() else { return };
    let [bytes, change] = pieces(rest);
    let byte = |index: usize| change.get(index).copied().unwrap_or(0);
    match what % 2 {
        0 => edited(Kind::Mm, bytes, |mm: &mut proto::MmEntry| {
            let len = mm.vmas.len();
            match byte(0) % 5 {
                0 if len > 0 => drop(mm.vmas.remove(usize::from(byte(1)) % len)),
                1 if len > 0 => mm.vmas[usize::from(byte(1)) % len].prot = byte(2).into(),
                2 if len > 1 => mm.vmas.swap(0, usize::from(byte(1)) % len),
                3 => mm.vmas.push(proto::VmaEntry { start: byte(1).into(), ..Default::default() }),
                _ => mm.dumpable = Some(byte(1).into()),
            }
            mm.mm_brk ^= u64::from(byte(3));
        }),
        _ => edited(Kind::Files, bytes, |file: &mut proto::FileEntry| {
            if let Some(reg) = &mut file.reg {
                reg.name = format!("/{}", byte(1));
                reg.size = byte(2).checked_sub(1).map(u64::from);
            }
            if let Some(socket) = &mut file.isk {
                socket.src_port = byte(1).into();
                socket.src_addr.push(byte(2).into());
            }
            file.id ^= u32::from(byte(0));
        }),
    }
});
