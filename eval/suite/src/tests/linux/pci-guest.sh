# What a Linux guest finds on its PCI bus, and what it does to it. Its only disk is this script.

devices=/sys/bus/pci/devices
find_function() { dirname "$(grep -l "$1" $devices/*/device | head -n 1)"; }
# Address of a BAR: FUNCTION INDEX.
bar() { sed -n "$(($2 + 1))s/ .*//p" "$1/resource"; }
# Bytes of configuration space: FUNCTION OFFSET ESCAPES.
put() { printf "$3" | dd of="$1/config" bs=1 seek="$2" conv=notrunc 2> /dev/null; }
config() { dd if="$1/config" bs=1 skip="$2" count="$3" 2> /dev/null | xxd -p; }
bytes() { devmem "$1" 64; }

echo "source $(cat /sys/class/misc/hw_random/rng_current)"
echo "random $(head -c 4096 /dev/hwrng | wc -c)"

nic=$(find_function 0x1110)
echo "class $(cat "$nic/class") revision $(cat "$nic/revision")"
ls "$nic" | grep -x -e resource0 -e resource2 -e resource2_wc
echo "capability $(config "$nic" 80 4)"
window=$(bar "$nic" 2)
registers=$(bar "$nic" 0)
echo "window at $window"
echo "window $(bytes "$window")"

# An interrupt by the pin: the guest rings its own port.
echo 1af4 1110 > /sys/bus/pci/drivers/uio_pci_generic/new_id
exec 3< /dev/uio0
devmem "$registers" 32 1
devmem $((registers + 12)) 32 0
# The driver has disabled the pin, which acknowledges the interrupt; what comes then waits until it is enabled.
event() { dd bs=4 count=1 <&3 2> /dev/null | xxd -p; }
first=$(event)
devmem $((registers + 12)) 32 0
put "$nic" 4 '\x02\x00'
echo "interrupts $first $(event)"
echo "pin $(grep -c -E 'IO-APIC .*-edge +uio_pci_generic' /proc/interrupts)"
echo "interrupt status $(devmem $((registers + 4)) 32)"

# The window moves, also above 4 GiB, and is nowhere where somebody else is.
put "$nic" 24 '\x00\x00\x00\xd0'
echo "moved $(bytes 0xd0000000), gone $(bytes "$window")"
put "$nic" 28 '\x50'
put "$nic" 24 '\x00\x00\x00\x00'
echo "high $(bytes 0x5000000000)"
put "$nic" 28 '\x00\x00\x00\x00'
for place in '\x00\x00' '\x00\x01' '\x00\x02' '\xe0\xfe' '\xc0\xfe' '\x00\xfe' '\xf0\xff'; do
    put "$nic" 24 "\x00\x00$place"
done
echo "nowhere $(bytes "$window")"

# A flood of configuration writes, at places of interest and anywhere.
number=0
while [ $number -lt 100 ]; do
    put "$nic" 4 '\x00\x00'
    put "$nic" 4 '\xff\xff'
    put "$nic" 16 '\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff'
    put "$nic" 66 '\xff\xff'
    number=$((number + 1))
done
for each in "$nic" "$(find_function 0x1044)"; do
    dd if=/dev/urandom of="$each/config" bs=256 count=40 conv=notrunc 2> /dev/null
done
put "$nic" 66 '\x00\x00'
put "$nic" 24 '\x00\x00\x00\xc0\x00\x00\x00\x00'
put "$nic" 4 '\x02\x00'
echo "again $(bytes 0xc0000000)"
echo "the guest goes on"
