//! Text that takes the kernel long to make, read by one thread while another takes it apart.

use std::io::{BufRead, Read, Result};
use std::sync::mpsc::{Receiver, sync_channel};
use std::thread;

/// Size of a block. What fits into one is not worth a thread.
const BLOCK: usize = 64 << 10;
/// Blocks that may wait.
const WAITING: usize = 4;

/// Gives the text of `file` to `take` while the rest of it is read.
pub(crate) fn read_ahead<T>(mut file: impl Read + Send, take: impl FnOnce(Blocks) -> T) -> T {
    let first = block(&mut file);
    let whole = !matches!(&first, Ok(text) if text.len() == BLOCK);
    let (sent, blocks) = sync_channel(WAITING);
    let blocks = Blocks { now: Vec::new(), at: 0, blocks };
    thread::scope(|scope| {
        // There is room, and somebody who waits.
        let _ = sent.send(first);
        if whole {
            drop(sent);
        } else {
            scope.spawn(move || {
                loop {
                    let next = block(&mut file);
                    let last = !matches!(&next, Ok(text) if text.len() == BLOCK);
                    // Nobody waits for it any more after an error.
                    if sent.send(next).is_err() || last {
                        return;
                    }
                }
            });
        }
        take(blocks)
    })
}

/// As much as fits, less only at the end of the file.
fn block(file: &mut impl Read) -> Result<Vec<u8>> {
    let mut text = Vec::with_capacity(BLOCK);
    file.by_ref().take(BLOCK as u64).read_to_end(&mut text)?;
    Ok(text)
}

/// The text, block by block.
#[derive(Debug)]
pub(crate) struct Blocks {
    now: Vec<u8>,
    at: usize,
    blocks: Receiver<Result<Vec<u8>>>,
}

impl BufRead for Blocks {
    fn fill_buf(&mut self) -> Result<&[u8]> {
        if self.at == self.now.len()
            && let Ok(next) = self.blocks.recv()
        {
            (self.now, self.at) = (next?, 0);
        }
        Ok(self.now.get(self.at..).unwrap_or_default())
    }

    fn consume(&mut self, amount: usize) {
        self.at = self.now.len().min(self.at + amount);
    }
}

impl Read for Blocks {
    fn read(&mut self, into: &mut [u8]) -> Result<usize> {
        let read = self.fill_buf()?.read(into)?;
        self.consume(read);
        Ok(read)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Gives a piece at a time, as the kernel does, and fails at the end if asked to.
    struct Pieces<'a>(&'a [u8], bool);

    impl Read for Pieces<'_> {
        fn read(&mut self, into: &mut [u8]) -> Result<usize> {
            const PIECE: usize = 4000;
            if self.0.is_empty() && self.1 {
                return Err(std::io::ErrorKind::PermissionDenied.into());
            }
            let room = into.len().min(PIECE);
            self.0.read(&mut into[..room])
        }
    }

    #[test]
    fn all_of_the_text_arrives_in_order() {
        let text: Vec<u8> = (0..u8::MAX).cycle().take(BLOCK * 9 + 77).collect();
        for len in [0, 1, BLOCK - 1, BLOCK, BLOCK + 1, BLOCK * 2, text.len()] {
            let mut seen = Vec::new();
            read_ahead(Pieces(&text[..len], false), |mut blocks| blocks.read_to_end(&mut seen)).unwrap();
            assert!(seen == text[..len], "{len} bytes");
        }
    }

    #[test]
    fn an_error_is_told_and_nobody_waits_after_it() {
        let text = vec![b'x'; BLOCK * 9];
        for len in [0, BLOCK, text.len()] {
            let file = Pieces(&text[..len], true);
            let read = read_ahead(file, |mut blocks| blocks.read_to_end(&mut Vec::new()));
            assert_eq!(read.unwrap_err().kind(), std::io::ErrorKind::PermissionDenied, "{len} bytes");
        }
        let first = read_ahead(Pieces(&text, false), |mut blocks| blocks.fill_buf().map(|text| text.len()));
        assert_eq!(first.unwrap(), BLOCK, "the rest is not read");
    }
}
