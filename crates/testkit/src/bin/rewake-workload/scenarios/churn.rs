//! An address space that never stands still: areas come, go, move, grow, shrink, change protection, and every page of them
//! holds what was written last. Made for memory that is copied in rounds while the program runs.

use std::sync::atomic::{
    AtomicBool, AtomicU64,
    Ordering::{Relaxed, SeqCst},
};

use crate::{
    stage::{At, Check, Failure, Stage, ensure, ensure_eq},
    sys::mem::{Area, PRIVATE, RW},
};

const AREAS: usize = 24;
const LARGEST: u64 = 64;
/// Steps before it says that it is ready, and after it was told to end.
const STEPS: u64 = 500;

/// An area and what is in it.
struct Kept {
    area: Area,
    /// What each page was filled with, 0 for zeros.
    seeds: Vec<u64>,
    protection: i32,
}

/// The same numbers in every run.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % limit
    }
}

impl Kept {
    fn new(random: &mut Random) -> Result<Self, Failure> {
        let pages = 1 + random.below(LARGEST);
        let area = Area::anonymous(pages, RW, PRIVATE).at("map")?;
        Ok(Self { area, seeds: vec![0; pages as usize], protection: RW })
    }

    fn some_page(&self, random: &mut Random) -> u64 {
        random.below(self.area.pages)
    }

    fn protect(&mut self, protection: i32) -> Check {
        self.protection = protection;
        self.area.protect(protection).at("protect")
    }

    fn write(&mut self, page: u64, seed: u64) -> Check {
        if self.protection != RW {
            self.protect(RW)?;
        }
        self.area.fill(page, seed);
        self.seeds[page as usize] = seed;
        Ok(())
    }

    /// Back to zeros, without a page.
    fn forget(&mut self, random: &mut Random) -> Check {
        let first = self.some_page(random);
        let pages = 1 + random.below(self.area.pages - first);
        self.area.part(first, pages).advise(libc::MADV_DONTNEED).at("forget")?;
        self.seeds[first as usize..(first + pages) as usize].fill(0);
        Ok(())
    }

    fn resize(&mut self, random: &mut Random) -> Check {
        let pages = 1 + random.below(LARGEST);
        self.area = self.area.moved(pages).at("mremap")?;
        self.seeds.resize(pages as usize, 0);
        Ok(())
    }

    fn check_page(&self, page: u64) -> Check {
        let what = "churned area";
        match self.seeds[page as usize] {
            0 => self.area.check_zero(page, what),
            seed => self.area.check(page, seed, what),
        }
    }

    fn check(&mut self) -> Check {
        ensure_eq!(self.seeds.len() as u64, self.area.pages, "pages of an area");
        self.protect(libc::PROT_READ)?;
        (0..self.area.pages).try_for_each(|page| self.check_page(page))
    }
}

struct Churn {
    areas: Vec<Kept>,
    random: Random,
    steps: u64,
}

impl Churn {
    fn step(&mut self) -> Check {
        self.steps += 1;
        let random = &mut self.random;
        if self.areas.len() < AREAS {
            self.areas.push(Kept::new(random)?);
        }
        let index = random.below(self.areas.len() as u64) as usize;
        let kept = &mut self.areas[index];
        match random.below(40) {
            0 => self.areas.swap_remove(index).area.unmap().at("unmap"),
            1 => kept.resize(random),
            2 => kept.forget(random),
            3 => kept.protect(libc::PROT_NONE),
            4 => kept.protect(libc::PROT_READ),
            5..20 => {
                let page = kept.some_page(random);
                kept.write(page, self.steps)
            }
            _ if kept.protection == libc::PROT_NONE => kept.protect(RW),
            _ => {
                let page = kept.some_page(random);
                kept.check_page(page)
            }
        }
    }
}

/// Churns in a thread of its own, from before the start until told to end, then looks at everything.
pub(crate) fn churn(stage: &Stage) -> Check {
    static DONE: AtomicU64 = AtomicU64::new(0);
    static END: AtomicBool = AtomicBool::new(false);
    let wait_steps = |thread: &std::thread::JoinHandle<Check>| {
        let seen = DONE.load(Relaxed);
        while DONE.load(Relaxed) < seen + STEPS && !thread.is_finished() {
            std::thread::yield_now();
        }
    };
    let thread = std::thread::spawn(|| {
        let mut churn = Churn { areas: Vec::new(), random: Random(0x2545_f491_4f6c_dd1d), steps: 0 };
        while !END.load(SeqCst) {
            churn.step().at(format!("step {}", churn.steps))?;
            DONE.fetch_add(1, Relaxed);
            std::thread::yield_now();
        }
        churn.areas.iter_mut().try_for_each(Kept::check).at(format!("after {} steps", churn.steps))
    });
    wait_steps(&thread);
    stage.freeze()?;
    wait_steps(&thread);
    ensure!(
        !thread.is_finished(),
        "it ended early: {:?}",
        thread.join().map(|c| c.err().map(|e| e.to_string()))
    );
    END.store(true, SeqCst);
    thread.join().map_err(|_| Failure::new("the churning thread panicked"))?
}
