# Removes the directory $1 once the tests are over: standard input is a pipe that only the test process holds, so it
# ends even with kill -9. The PostgreSQL in there has a pipe of its own and stops by itself; that is waited for.
trap '' HUP INT TERM
read -r _
tries=0
while [ -n "$(find "$1" -name postmaster.pid 2>/dev/null)" ] && [ "$tries" -lt 300 ]; do
    sleep 0.1
    tries=$((tries + 1))
done
rm -rf "$1" 2>/dev/null || { sleep 1; rm -rf "$1"; }
