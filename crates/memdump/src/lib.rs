//! Memory capture of a Linux task: mappings, page choice, chunked process_vm_readv.
