//! Many small looks, shared out among threads.

use std::sync::mpsc;
use std::thread;

/// Items that a thread takes at a time.
const PIECE: usize = 64;
/// Below this, threads cost more than they gain.
const WORTH_THREADS: usize = 4 * PIECE;
/// More would not help: the kernel makes them wait for each other. With two pieces of each waiting, descriptors taken for
/// all items fit into the usual limit of 1024.
const MOST_THREADS: usize = 4;

/// Does `look` for every item, on several threads if there are many, and gives what came of it to `take` in the order of
/// the items. What waits for `take` is bounded, whatever the number of items. The first error in that order ends it.
pub(crate) fn in_order<I: Sync, T: Send, E: Send>(
    items: &[I],
    look: impl Fn(&I) -> Result<T, E> + Sync,
    mut take: impl FnMut(T) -> Result<(), E>,
) -> Result<(), E> {
    // Asking how many there may be takes a look at control groups: only if it matters.
    let many = items.len() >= WORTH_THREADS;
    let threads =
        if many { thread::available_parallelism().map_or(1, usize::from).min(MOST_THREADS) } else { 1 };
    if threads == 1 {
        return items.iter().try_for_each(|item| take(look(item)?));
    }
    thread::scope(|scope| {
        let start = |first: usize| {
            let (done, ready) = mpsc::sync_channel::<Result<Vec<T>, E>>(1);
            let look = &look;
            scope.spawn(move || {
                for piece in items.chunks(PIECE).skip(first).step_by(threads) {
                    // Nobody waits for it any more after an error.
                    if done.send(piece.iter().map(look).collect()).is_err() {
                        return;
                    }
                }
            });
            ready
        };
        // Pieces are dealt out in turn, and so are asked for in turn.
        let ready: Vec<_> = (0..threads).map(start).collect();
        let mut pieces = ready.iter().cycle().map_while(|ready| ready.recv().ok());
        pieces.try_for_each(|piece| piece?.into_iter().try_for_each(&mut take))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_order_is_that_of_the_items() {
        let items: Vec<usize> = (0..10_000).collect();
        let mut seen = Vec::new();
        let doubled = |&n: &usize| Ok::<_, ()>(2 * n);
        in_order(&items, doubled, |n| {
            seen.push(n);
            Ok(())
        })
        .unwrap();
        assert!(seen.iter().enumerate().all(|(n, &twice)| twice == 2 * n) && seen.len() == items.len());
    }

    #[test]
    fn the_first_error_is_the_one_that_counts() {
        let items: Vec<usize> = (0..10_000).collect();
        let bad = |&n: &usize| if n == 777 || n == 9_999 { Err(n) } else { Ok(n) };
        let mut taken = 0;
        let ended = in_order(&items, bad, |_| {
            taken += 1;
            Ok(())
        });
        assert_eq!(ended, Err(777));
        assert!(taken <= 777);
        let picky = |n: usize| if n == 300 { Err(n) } else { Ok(()) };
        assert_eq!(in_order(&items, |&n| Ok(n), picky), Err(300));
    }
}
