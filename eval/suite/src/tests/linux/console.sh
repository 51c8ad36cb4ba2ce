# A Linux guest's serial console, both ways: what is typed reaches a process of the guest, and its
# answer comes back, by a pseudo-terminal, by a socket and by pipes.

# What the guest does with lines, of which its terminal echoes none.
ask='while read -r a b; do [ $a = end ] && exit $b; echo sum $((a + b)), $a and $b; done'
line="console=ttyS0 panic=-1 quiet postern.run=\"stty -echo; echo ready; $ask\""
vm="./postern run --kernel small/kernel --initrd small/initrd --memory 128M"
# until_said FILE TEXT PID: what a VM has said.
until_said() {
    until grep -q "$2" "$1" 2> /dev/null; do
        kill -0 "$3" 2> /dev/null || { echo "it has ended before it said $2"; cat "$1"; exit 90; }
        sleep 0.05
    done
}

# A pseudo-terminal, whose name it prints.
$vm --serial pty --cmdline "$line" > pty.out 2>&1 &
pid=$!
until_said pty.out /dev/pts/ $pid
terminal=$(grep -o '/dev/pts/[0-9]*' pty.out | head -n 1)
stty raw -echo < "$terminal"
cat "$terminal" > pty.said 2> /dev/null &
reader=$!
until_said pty.said ready $pid
# The sum says that the answer is the guest's.
echo '20 22' > "$terminal"
until_said pty.said 'sum 42, 20 and 22' $pid
echo 'end 9' > "$terminal"
wait $pid
check 'a process gets what is typed at a pseudo-terminal, and ends the VM' [ $? = 9 ]
kill $reader 2> /dev/null

# A socket, which `postern console` joins.
mkfifo typed
$vm --serial unix:console.sock --cmdline "$line" > unix.out 2>&1 &
pid=$!
until [ -S console.sock ]; do kill -0 $pid || { cat unix.out; exit 91; }; sleep 0.05; done
./postern console console.sock < typed > unix.said 2>&1 &
reader=$!
exec 3> typed
until_said unix.said ready $pid
# More than the receive FIFO has room for, in one go: lines, of which each has its answer.
number=1
while [ $number -le 40 ]; do
    echo "$number 1000"
    number=$((number + 1))
done >&3
until_said unix.said 'sum 1040, 40 and 1000' $pid
echo 'end 8' >&3
wait $pid
check 'a process gets what is typed into a socket, and ends the VM' [ $? = 8 ]
exec 3>&-
wait $reader
check 'postern console ends with the VM' [ $? = 0 ]
check 'each line has its answer, once and in order' sh -c '
    tr -d "\r" < unix.said | grep -o "^sum .*" > sums
    number=1
    while [ $number -le 40 ]; do
        echo "sum $((number + 1000)), $number and 1000"
        number=$((number + 1))
    done | cmp sums -'
[ $failed = 0 ] || cat unix.said
check 'the socket goes with the VM' sh -c '! [ -e console.sock ]'

# Pipes, of which the input is there before the guest is.
printf '1 2\nend 7\n' | $vm --cmdline "$line" > pipe.said 2> pipe.out
check 'a process gets what was in a pipe before it began' [ $? = 7 ]
check 'and answers' grep -q 'sum 3, 1 and 2' pipe.said
[ $failed = 0 ] || cat pipe.said pipe.out
exit $failed
