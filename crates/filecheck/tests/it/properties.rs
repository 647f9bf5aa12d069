//! Nothing that bytes can say makes the reader panic, and what it says of them is true.

use proptest::prelude::*;
use rewake_filecheck::BuildId;
use rewake_filecheck::build_id::{MAX_BUILD_ID, Scan, scan};

use crate::elf::Elf;

proptest! {
    #[test]
    fn mutated_images_never_panic(
        wide: bool,
        big: bool,
        id in proptest::collection::vec(any::<u8>(), 1..64),
        changes in proptest::collection::vec((0usize..400, any::<u8>()), 0..24),
        cut in 0usize..600,
    ) {
        let mut image = Elf::with_build_id(wide, big, &id).bytes();
        for (place, byte) in changes {
            if let Some(old) = image.get_mut(place) {
                *old = byte;
            }
        }
        image.truncate(cut);
        if let Scan::Found(found) = scan(image.as_slice()).unwrap() {
            prop_assert!(found.as_bytes().len() <= MAX_BUILD_ID);
            prop_assert!(image.windows(found.as_bytes().len()).any(|window| window == found.as_bytes()));
        }
    }

    #[test]
    fn random_bytes_after_the_magic_never_panic(rest in proptest::collection::vec(any::<u8>(), 0..300)) {
        let image = [b"\x7fELF".as_slice(), &rest].concat();
        let _ = scan(image.as_slice()).unwrap();
    }

    #[test]
    fn words_and_back(id in proptest::collection::vec(any::<u8>(), 1..200)) {
        let id = BuildId::new(&id).unwrap();
        prop_assert!(BuildId::from_words(&id.to_words()).unwrap().same_padded(&id));
    }
}
