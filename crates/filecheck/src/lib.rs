//! Is this file the one that was mapped? Cookies of files: size, ELF build-id, checksum, BLAKE3.
