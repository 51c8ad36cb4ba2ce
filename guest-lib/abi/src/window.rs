//! Rings and packet buffers of a port: the memory that a guest shares with the NIC.
