// Goroutines by the hundred, some of which end their threads, until the input ends.
package main

import (
	"fmt"
	"io"
	"os"
	"runtime"
	"sync"
	"syscall"
	"time"
)

func round() int {
	var group sync.WaitGroup
	sums := make(chan int, 100)
	for number := 0; number < 100; number++ {
		group.Add(1)
		go func(number int) {
			defer group.Done()
			if number%10 == 0 {
				// A locked goroutine that returns takes its thread with it.
				runtime.LockOSThread()
				syscall.Nanosleep(&syscall.Timespec{Nsec: 2_000_000}, nil)
			}
			sums <- len(make([]byte, number<<10))
		}(number)
	}
	group.Wait()
	close(sums)
	sum := 0
	for part := range sums {
		sum += part
	}
	return sum
}

func main() {
	go func() {
		io.Copy(io.Discard, os.Stdin)
		os.Exit(0)
	}()
	fmt.Println("ready")
	for number := 1; ; number++ {
		fmt.Println("finished", number, round())
		time.Sleep(20 * time.Millisecond)
	}
}
