# The PCI bus of a Linux guest. `guest.sh` is what the guest runs, from its only disk.

./postern nic --socket nic.sock --ports 2 --paths exit-user > nic.out 2>&1 &
nic=$!
while [ ! -e nic.sock ]; do sleep 0.05; done
# The shell reads the disk to its end.
{
    cat guest.sh
    yes '' | head -c 16384
} | head -c 16384 > script.img
run pci $guest 'postern.run="sh /dev/vda"' --nic nic.sock --port 0 --path exit-user --rng \
    --disk path=script.img,readonly
check 'the guest ends well' [ $? = 0 ]
says() { grep -q -x "$1"'.\?' pci.log; }
# "PSTNWIND": the header of a window.
header=0x444E49574E545350
nothing=0xFFFFFFFFFFFFFFFF
check 'random bytes are the hosts' says 'source virtio_rng.0'
check 'as many as were asked for' says 'random 4096'
check 'the window is an ivshmem device' says 'class 0x050000 revision 0x01'
check 'its registers are in sysfs' says resource0
check 'its memory is in sysfs' says resource2
check 'its memory is in sysfs, write-combining' says resource2_wc
check 'it says whose it is' says 'capability 5053544e'
check 'it is where guests without PCI look' says 'window at 0x00000000c0000000'
check 'it is the window' says "window $header"
check 'interrupts by the pin reach UIO' says 'interrupts 01000000 02000000'
check 'the pin is edge-triggered' says 'pin 1'
check 'the driver has acknowledged both' says 'interrupt status 0x00000000'
check 'the window moves' says "moved $header, gone $nothing"
check 'above 4 GiB, too' says "high $header"
check 'it is nowhere where others are' says "nowhere $nothing"
check 'it comes back after a flood' says "again $header"
check 'the guest goes on' says 'the guest goes on'
[ $failed = 0 ] || show pci
kill $nic
wait $nic
