//! Names of system calls, for messages.

macro_rules! names {
    ($($name:ident = $nr:ident)*) => {
        /// Name of a system call that somebody may run remotely, `"?"` for another.
        pub(crate) fn syscall_name(nr: i64) -> &'static str {
            match nr {
                $(libc::$nr => stringify!($name),)*
                _ => "?",
            }
        }
    };
}

names! {
    read = SYS_read
    write = SYS_write
    close = SYS_close
    lseek = SYS_lseek
    mmap = SYS_mmap
    mprotect = SYS_mprotect
    munmap = SYS_munmap
    brk = SYS_brk
    rt_sigaction = SYS_rt_sigaction
    rt_sigprocmask = SYS_rt_sigprocmask
    ioctl = SYS_ioctl
    pread64 = SYS_pread64
    preadv = SYS_preadv
    madvise = SYS_madvise
    mremap = SYS_mremap
    dup2 = SYS_dup2
    dup3 = SYS_dup3
    getitimer = SYS_getitimer
    setitimer = SYS_setitimer
    getpid = SYS_getpid
    socket = SYS_socket
    sendmsg = SYS_sendmsg
    recvmsg = SYS_recvmsg
    clone = SYS_clone
    clone3 = SYS_clone3
    kill = SYS_kill
    fcntl = SYS_fcntl
    fchdir = SYS_fchdir
    chroot = SYS_chroot
    umask = SYS_umask
    setpgid = SYS_setpgid
    setsid = SYS_setsid
    setgroups = SYS_setgroups
    setresuid = SYS_setresuid
    setresgid = SYS_setresgid
    setfsuid = SYS_setfsuid
    setfsgid = SYS_setfsgid
    capset = SYS_capset
    rt_sigqueueinfo = SYS_rt_sigqueueinfo
    rt_tgsigqueueinfo = SYS_rt_tgsigqueueinfo
    sigaltstack = SYS_sigaltstack
    personality = SYS_personality
    modify_ldt = SYS_modify_ldt
    prctl = SYS_prctl
    arch_prctl = SYS_arch_prctl
    setrlimit = SYS_setrlimit
    prlimit64 = SYS_prlimit64
    gettid = SYS_gettid
    set_tid_address = SYS_set_tid_address
    set_robust_list = SYS_set_robust_list
    sched_setscheduler = SYS_sched_setscheduler
    sched_setaffinity = SYS_sched_setaffinity
    sched_setattr = SYS_sched_setattr
    ioprio_set = SYS_ioprio_set
    timer_create = SYS_timer_create
    timer_settime = SYS_timer_settime
    timer_gettime = SYS_timer_gettime
    timer_getoverrun = SYS_timer_getoverrun
    timer_delete = SYS_timer_delete
    openat = SYS_openat
    epoll_ctl = SYS_epoll_ctl
    eventfd2 = SYS_eventfd2
    signalfd4 = SYS_signalfd4
    timerfd_create = SYS_timerfd_create
    timerfd_settime = SYS_timerfd_settime
    memfd_create = SYS_memfd_create
    membarrier = SYS_membarrier
    mlock2 = SYS_mlock2
    mbind = SYS_mbind
    set_mempolicy = SYS_set_mempolicy
    get_mempolicy = SYS_get_mempolicy
    seccomp = SYS_seccomp
    userfaultfd = SYS_userfaultfd
    rseq = SYS_rseq
    pidfd_open = SYS_pidfd_open
    pidfd_getfd = SYS_pidfd_getfd
    close_range = SYS_close_range
    unshare = SYS_unshare
    setns = SYS_setns
    exit = SYS_exit
}

#[cfg(test)]
mod tests {
    #[test]
    fn known_and_unknown() {
        assert_eq!(super::syscall_name(libc::SYS_mmap), "mmap");
        assert_eq!(super::syscall_name(-1), "?");
    }
}
