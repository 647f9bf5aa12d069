//! A mutex whose owner may die.

use std::{cell::UnsafeCell, mem::MaybeUninit};

use nix::errno::Errno;

/// A robust pthread mutex on the heap. Never destroyed: an owner may have ended without giving it back.
pub(crate) struct RobustMutex(&'static UnsafeCell<MaybeUninit<libc::pthread_mutex_t>>);

// SAFETY: all access goes through the C library's functions or reads the lock word atomically.
unsafe impl Sync for RobustMutex {}

impl RobustMutex {
    pub(crate) fn new() -> Result<Self, Errno> {
        let cell: &'static _ = Box::leak(Box::new(UnsafeCell::new(MaybeUninit::uninit())));
        let mut attributes = MaybeUninit::<libc::pthread_mutexattr_t>::uninit();
        // SAFETY: initialises the attributes.
        done(unsafe { libc::pthread_mutexattr_init(attributes.as_mut_ptr()) })?;
        // SAFETY: initialised above.
        done(unsafe {
            libc::pthread_mutexattr_setrobust(attributes.as_mut_ptr(), libc::PTHREAD_MUTEX_ROBUST)
        })?;
        let this = Self(cell);
        // SAFETY: fresh memory that never moves, initialised attributes.
        done(unsafe { libc::pthread_mutex_init(this.pointer(), attributes.as_ptr()) })?;
        Ok(this)
    }

    fn pointer(&self) -> *mut libc::pthread_mutex_t {
        self.0.get().cast()
    }

    pub(crate) fn lock(&self) -> Result<(), Errno> {
        // SAFETY: an initialised mutex.
        done(unsafe { libc::pthread_mutex_lock(self.pointer()) })
    }

    pub(crate) fn unlock(&self) -> Result<(), Errno> {
        // SAFETY: an initialised mutex.
        done(unsafe { libc::pthread_mutex_unlock(self.pointer()) })
    }

    /// The tid in the lock word, which is the first of the mutex.
    pub(crate) fn owner(&self) -> u32 {
        const TID_MASK: u32 = 0x3fff_ffff;
        // SAFETY: the lock word is an aligned u32 that lives as long as the program.
        let word = unsafe { std::sync::atomic::AtomicU32::from_ptr(self.pointer().cast()) };
        word.load(std::sync::atomic::Ordering::SeqCst) & TID_MASK
    }
}

fn done(error: i32) -> Result<(), Errno> {
    if error == 0 { Ok(()) } else { Err(Errno::from_raw(error)) }
}
