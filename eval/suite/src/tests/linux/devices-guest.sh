# All devices of a Linux guest in use; it resets its VM once. Its first disk is this script.

echo "random $(head -c 256 /dev/hwrng | wc -c)"
ls /sys/bus/virtio/drivers/vmw_vsock_virtio_transport | grep -q ^virtio && echo "sockets to the host"
for host in 10.5.0.1 10.6.0.1; do
    ping -c 2 -W 5 -q $host > /dev/null && echo "$host answers"
done
time=$(head -n 1 /dev/vdb)
echo "boot $time"
echo second | dd of=/dev/vdb conv=notrunc,fsync 2> /dev/null
[ "$time" = second ] || reboot -f
while sleep 0.2; do
    echo tick
done
